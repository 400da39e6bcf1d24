"""The cohorts' experiment: nothing outside the fold, planted scanners found and removed, folds resumed, one table."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from experiments.__main__ import main
from experiments.cohorts.cohort import folds, load_table, standardised
from experiments.cohorts.methods import represent
from experiments.cohorts.probes import told_age, told_sites, without_covariates
from experiments.cohorts.protocol import _permuted, _sign_flips
from experiments.cohorts.unseen import unseen_splits


def write_cohort(folder, rows: int = 90, name: str = "made_up") -> None:
    """Two scanners of 40 rows, of which one adds 2, and a third of 10; ages and sexes alike."""
    generator = np.random.default_rng(0)
    site = np.repeat(["A", "B", "C"], [rows // 2 - 5, rows // 2 - 5, 10])
    age = np.round(generator.uniform(20, 80, rows), 1)
    features = generator.normal(size=(rows, 5)) + np.outer((age - 50) / 15, [1, 1, 0, 0, 0]) + 10
    features[:, 2:] += 2.0 * (site == "B")[:, None]
    table = pd.DataFrame(features, columns=[f"x{i}" for i in range(5)])
    table.insert(0, "sex", np.array(["F", "M"])[np.arange(rows) % 2])
    table.insert(0, "age", age)
    table.insert(0, "site", site)
    table.insert(0, "participant_id", [f"sub-{i}" for i in range(rows)])
    table.loc[3, "x1"] = 0  # a failed measurement
    (folder / name).mkdir(parents=True)
    table.to_csv(folder / name / "participants.tsv", sep="\t", index=False)


@pytest.fixture
def table(tmp_path):
    write_cohort(tmp_path)
    return load_table(tmp_path, "made_up")


def test_a_table_is_read(table):
    assert table.features.shape == (90, 5) and np.isnan(table.features[3, 1])
    assert list(table.labels) == ["sex"] and table.site_names == ("A", "B", "C")
    assert table.probed.all()


def test_folds_are_disjoint_cover_all_rows_and_are_of_one_size(table):
    splits = folds(table, 4, 0)
    assert len({len(train) for train, _ in splits}) == 1
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in splits])), np.arange(90))
    for train, test in splits:
        assert not set(train) & set(test)


@pytest.mark.filterwarnings("ignore::eqpool.estimator.FailedColumnWarning")
@pytest.mark.parametrize("method", ["raw", "combat", "calibrated"])
def test_held_out_rows_do_not_reach_what_is_fitted(table, method):
    train, test = folds(table, 4, 0)[0]
    before = represent(method, table, train, epochs=1)[0]
    table.features[test[1:]] += 100  # all held-out rows but one
    after = represent(method, table, train, epochs=1)[0]
    for name in before:
        kept = np.append(train, test[0])
        np.testing.assert_array_equal(before[name][kept], after[name][kept])


def test_residuals_do_not_tell_the_covariates(table):
    train = np.flatnonzero(np.arange(90) % 3)
    residual = without_covariates(standardised(table, train), table.covariates, train)
    for covariate in table.covariates.T:
        for column in residual[train].T:
            assert abs(scipy.stats.pearsonr(column, covariate[train])[0]) < 1e-8


def test_probes_find_the_planted_scanner_and_age(table):
    train, test = folds(table, 4, 0)[0]
    inputs = standardised(table, train)
    told = told_sites(inputs, table.site, train, test)
    assert all(np.mean(sites == table.site[test]) > 0.7 for sites in told.values())
    age = table.covariates[:, 0]
    error = np.abs(told_age(inputs, age, train, test) - age[test]).mean()
    assert error < 0.7 * np.abs(age[test] - age[train].mean()).mean()


def test_permutation_p_values():
    generator = np.random.default_rng(0)
    truth = np.repeat([0, 1], 20)
    told = np.where(generator.random(40) < 0.8, truth, 1 - truth)
    exact = scipy.stats.fisher_exact([[np.sum((truth == a) & (told == b)) for b in (0, 1)] for a in (0, 1)], "greater")
    assert _permuted(truth, {"one": told}) == pytest.approx(exact.pvalue, abs=0.01)
    assert _permuted(truth, {"one": generator.permutation(truth)}) > 0.05
    differences = generator.normal(0.3, 1, 60)
    expected = scipy.stats.ttest_1samp(differences, 0, alternative="greater").pvalue
    assert _sign_flips(differences) == pytest.approx(expected, abs=0.02)


def test_unseen_sites_are_neither_trained_on_nor_scored_by_the_rows_they_are_calibrated_on(table):
    seen = []
    for train, calibration, test in unseen_splits(table, 0, controls=5, seed=0):
        (site,) = set(table.site[test])
        assert site not in table.site[train] and (table.site[calibration] == site).all() and len(calibration) == 5
        assert not set(calibration) & set(test)
        seen.append(site)
    assert sorted(seen) == [0, 1, 2]
    both = list(unseen_splits(table, 2, controls=5, seed=0))
    assert len(both) == 2 and all(not set(table.site[train]) & set(table.site[test]) for train, _, test in both)


def test_the_command_writes_one_table_and_resumes(tmp_path, capsys):
    write_cohort(tmp_path / "cohorts")
    arguments = [
        "cohorts", f"--cohorts={tmp_path / 'cohorts'}", "--names=made_up", "--methods=raw", "--folds=3",
        f"--runs={tmp_path / 'runs'}", f"--output={tmp_path}",
    ]  # fmt: skip
    assert main(arguments) == 0
    page, results = tmp_path / "pages" / "cohorts.md", tmp_path / "results" / "cohorts.json"
    text, content = page.read_text(), json.loads(results.read_text())
    assert "made_up, chance 0.333" in text and "| raw | " in text and str(tmp_path) not in text
    keys = {"commit", "commits_of_runs", "config_hash", "date", "device", "versions", "seeds", "wall_seconds"}
    assert keys <= set(content) and content["experiment"] == "cohorts" and content["seeds"] == [0]
    assert content["command"].startswith("python -m experiments cohorts --cohorts=... --names=made_up")
    assert str(tmp_path) not in results.read_text()
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs" / "cohorts").rglob("*.npz")}
    assert len(stored) == 7  # features and what was told of each fold, and the probes within
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in stored} == stored
    assert page.read_text() == text
    write_cohort(tmp_path / "cohorts", name="other")
    assert main([*arguments, "--names=other"]) == 0  # joins the table
    joined = page.read_text()
    assert "made_up, chance 0.333" in joined and "other, chance 0.333" in joined
    capsys.readouterr()
    assert main([*arguments, "--names=absent"]) == 2
    error = capsys.readouterr().err
    assert "absent/participants.tsv: no such file" in error and error.count("\n") == 1
