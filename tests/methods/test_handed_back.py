"""What a run scores is what users get: the table that transform writes, and the volumes that the run writes."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from eqpool.commands.run import run
from eqpool.config import DataConfig, EvaluateConfig
from eqpool.data.cohort import Scaling
from eqpool.data.load import load_cohort
from eqpool.data.volumes.inputs import Grid
from eqpool.evaluate.input_features import sub_grid
from eqpool.evaluate.scorecard import make_scorecard
from eqpool.evaluate.scored_rows import ScoredRows
from eqpool.methods.baseline import Baseline
from eqpool.methods.pooling import Pooling
from eqpool.storage.run_folder import RunFolder
from eqpool.transform import main as transform_main
from tests.conftest import tiny_config, train_quickly

QUICK = EvaluateConfig(
    adversary_epochs=1, probe_seeds=1, probe_folds=2, permutations=9, bootstraps=9, scorecard_permutations=0
)


def test_a_sub_grid_is_regular_and_small():
    mask = np.zeros((20, 30, 24), bool)
    mask[2:-2, 2:-2, 2:-2] = True
    grid = Grid("made up", mask.shape, np.eye(4), mask)
    kept = sub_grid(grid, 500)
    assert 250 < kept.sum() <= 500 and not (kept & ~mask).any()
    for axis in range(3):
        assert len(set(np.diff(np.unique(np.nonzero(kept)[axis])))) == 1
    np.testing.assert_array_equal(sub_grid(grid, 10**6), mask)


def write_table(path) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    site, age = np.arange(80) % 2, generator.uniform(20, 80, 80)
    table = pd.DataFrame(
        {
            "participant_id": [f"p{row}" for row in range(80)],
            "site": np.array(["A", "B"])[site],
            "age": age.round(1),
            "dx": np.array(["x", "y"])[np.arange(80) // 2 % 2],
            "thick_a": (3 - 0.01 * age + 0.3 * site + 0.1 * generator.normal(size=80)).round(4),
            "thick_b": (9 + 0.02 * age + 0.4 * site * generator.normal(size=80)).round(4),
            "mode": np.array(["u", "v"])[np.arange(80) // 4 % 2],
        }
    )
    table.to_csv(path, sep="\t", index=False)
    return table


def test_the_scorecard_of_a_table_scores_what_transform_writes(tmp_path):
    write_table(tmp_path / "participants.tsv")
    data = DataConfig(participants=str(tmp_path / "participants.tsv"), features="thick_*,mode")
    data = dataclasses.replace(data, site_calibration="location")
    config = dataclasses.replace(tiny_config(tmp_path), data=data, evaluate=QUICK)
    train_quickly(config, tmp_path / "run")
    arguments = [f"--workdir={tmp_path / 'run'}", f"--participants={tmp_path / 'participants.tsv'}"]
    assert transform_main([*arguments, f"--output={tmp_path / 'out'}"]) == 0

    cohort = load_cohort(data, tmp_path / "cache", progress=False)
    rows = np.flatnonzero(cohort.split != "validation")
    tables = {"raw": tmp_path / "participants.tsv", "eqpool": tmp_path / "out" / "harmonised.tsv"}
    encoding = Pooling().load(RunFolder(tmp_path / "run")).facts.features
    versions = {name: encoding.apply(pd.read_csv(path, sep="\t"))[rows] for name, path in tables.items()}
    assert np.abs(versions["eqpool"] - versions["raw"])[:, :2].min(axis=0).max() > 0
    np.testing.assert_array_equal(versions["eqpool"][:, 2:], versions["raw"][:, 2:])  # categories stay
    scored = ScoredRows(
        site=cohort.site[rows],
        covariates=cohort.covariates[rows],
        target=cohort.target[rows],
        target_classes=cohort.target_classes,
        subject=cohort.participant_id[rows],
        is_training=cohort.split[rows] == "train",
        covariate_name="age",
        target_name="dx",
    )
    expected = make_scorecard(scored, versions, handed_back="eqpool", on_voxels=False, config=QUICK, seed=0)
    found = json.loads((tmp_path / "run" / "results.json").read_text())["scorecard"]
    assert list(found["versions"]) == ["raw", "combat", "calibrated", "eqpool"]
    for name in ("raw", "eqpool"):
        for key in ("site", "covariate_mae_within_sites", "target_balanced_accuracy", "partial_r_squared_site"):
            assert found["versions"][name][key] == pytest.approx(expected["versions"][name][key], rel=1e-3), key
    assert found["versions"]["raw"] != found["versions"]["calibrated"]  # "before" is the raw input


@pytest.fixture(scope="module")
def combat(tmp_path_factory):
    """(config, metrics and scorecard) of ComBat on all voxels of the brain, of which the sub-grid leaves none out."""
    folder = tmp_path_factory.mktemp("scored")
    config = dataclasses.replace(tiny_config(folder), method="combat", evaluate=QUICK)
    return config, run(config, folder / "run", quiet=True)


def test_the_scorecard_of_volumes_scores_what_is_written(combat):
    metrics, scorecard = (combat[1][name] for name in ("metrics", "scorecard"))
    assert scorecard["handed_back"] == "combat" and list(scorecard["versions"]) == ["raw", "combat", "truth"]
    for version, form in (("raw", "input"), ("combat", "change")):
        found = scorecard["versions"][version]["error_to_truth"]
        assert found == pytest.approx(metrics[f"recovery_error_{form}"], rel=1e-5)
    assert list(scorecard["differences"]) == ["raw"]


@pytest.mark.parametrize("form", ["none", "decoded"])
def test_a_run_scores_its_form_beside_the_combat_of_the_same_rows(form, combat, trained_volumes, tmp_path):
    """Without written volumes the training rows are decoded all the same, for the probes that learn from them."""
    shutil.copytree(trained_volumes, tmp_path / "run", ignore=shutil.ignore_patterns("derivatives"))
    folder = RunFolder(tmp_path / "run")
    config = dataclasses.replace(folder.read_config(), evaluate=QUICK)
    config = dataclasses.replace(config, output=dataclasses.replace(config.output, harmonised=form))
    cohort = load_cohort(config.data, folder.cache(config), progress=False)
    metrics, scorecard = Pooling().harmonise(cohort, Scaling.fit(cohort), config, folder)
    assert scorecard["rows"] == {"train": len(cohort.rows("train")), "test": len(cohort.rows("test"))}
    errors = {name: scores["error_to_truth"] for name, scores in scorecard["versions"].items()}
    assert errors["eqpool"] == pytest.approx(
        metrics[f"recovery_error_{'change' if form == 'none' else form}"], rel=1e-5
    )
    rival = combat[1]["scorecard"]["versions"]
    assert errors["combat"] == pytest.approx(rival["combat"]["error_to_truth"], rel=1e-4)
    for key in ("site_transfer", "covariate_mae"):
        assert scorecard["versions"]["raw"][key] == pytest.approx(rival["raw"][key])
    assert (folder.derivatives.exists()) == (form == "decoded")


def test_a_baseline_without_a_decoder_scores_raw_and_combat(combat, tmp_path):
    config, results = combat
    cohort = load_cohort(config.data, RunFolder(tmp_path).cache(config), progress=False)
    found = Baseline().harmonise(cohort, Scaling.fit(cohort), config, RunFolder(tmp_path)).scorecard
    assert found["handed_back"] == "" and found["differences"] == {}
    for name, scores in results["scorecard"]["versions"].items():
        assert found["versions"][name]["error_to_truth"] == pytest.approx(scores["error_to_truth"], rel=1e-4)


def test_the_scorecard_can_be_turned_off(combat, tmp_path):
    config = dataclasses.replace(combat[0], evaluate=dataclasses.replace(QUICK, scorecard=False))
    assert "scorecard" not in run(config, tmp_path / "run", quiet=True)
