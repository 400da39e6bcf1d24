"""The experiment on tables of known truth: its pairs are as planted, its scores are those of other code, it runs."""

import json

import numpy as np
import pytest
import scipy.stats

from experiments.__main__ import main
from experiments.known_truth_methods import METHODS
from experiments.known_truth_pairs import FEW, SCALE, generated_people, make_pairs, training_rows
from experiments.known_truth_tables import _concordance, _correlations, _identified, scores


@pytest.fixture(scope="module")
def pairs():
    return make_pairs("generated", *generated_people(0, 200, 12), "alike", 5, 0)


def test_the_second_pipeline_stretches_as_planted(pairs):
    ratios = pairs.measured[1].std(axis=0) / pairs.measured[0].std(axis=0)
    assert np.median(ratios) == pytest.approx(SCALE, rel=1e-6) and ratios.std() > 0.05
    ranks = [
        scipy.stats.spearmanr(*columns).statistic for columns in zip(*pairs.measured.transpose(0, 2, 1), strict=True)
    ]
    assert 0.7 < np.mean(ranks) < 0.95
    rows = training_rows(pairs, np.arange(10))
    for person in range(10):
        np.testing.assert_array_equal(rows[person], pairs.measured[pairs.pipeline[person], person])


def test_designs():
    people, covariates = generated_people(0, 400, 5)
    shifted, few = (make_pairs("generated", people, covariates, design, 5, 0) for design in ("shifted", "few"))
    ages = [covariates[shifted.pipeline == one, 0].mean() for one in (0, 1)]
    assert ages[1] - ages[0] > 15
    assert few.pipeline.sum() * 4 / 5 == FEW


def test_scores_are_those_of_plain_code(pairs):
    first, second = pairs.measured
    lin = []
    for a, b in zip(first.T, second.T, strict=True):
        lin.append(2 * np.cov(a, b, bias=True)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2))
    np.testing.assert_allclose(_concordance(first, second), lin)
    expected = [scipy.stats.pearsonr(a, b).statistic for a, b in zip(first.T, second.T, strict=True)]
    np.testing.assert_allclose(_correlations(first, second), expected)
    assert _identified(first, first) == 1.0
    assert _identified(first, np.roll(first, 1, axis=0)) == 0.0


def test_a_perfect_harmonisation_scores_best(pairs):
    train, test = np.arange(150), np.arange(150, 200)
    truth = {row.tobytes(): pairs.measured[0, person] for which in pairs.measured for person, row in enumerate(which)}
    oracle = scores(
        pairs, train, test, lambda rows, *_: np.stack([truth[row.tobytes()] for row in rows]), pairs.measured[:, test]
    )
    assert oracle["paired_error"] == 0 and oracle["concordance"] == pytest.approx(1)
    assert oracle["identified"] == 1 and abs(oracle["site"] - 0.5) < 0.1
    raw = scores(pairs, train, test, METHODS["raw"](pairs, train), pairs.measured[:, test])
    assert raw["paired_error"] == 1 and raw["site"] > 0.8


def test_the_command_writes_one_table(tmp_path, capsys):
    arguments = [
        "known_truth_tables", "--names=generated", "--splits=2", "--methods=raw,combat-nc,eqpool (auto)",
        f"--output={tmp_path}",
    ]  # fmt: skip
    assert main(arguments) == 0
    content = json.loads((tmp_path / "results" / "known_truth_tables.json").read_text())
    by = {
        (row["design"], row["method"]): np.mean([one["paired_error"] for one in row["scores"]])
        for row in content["rows"]
    }
    for design in ("alike", "shifted", "few"):
        assert by[design, "raw"] == 1 > by[design, "eqpool (auto)"]
        assert by[design, "eqpool (auto)"] < by[design, "combat-nc"] + 0.02
    assert "generated, ages shifted." in (tmp_path / "pages" / "known_truth_tables.md").read_text()
