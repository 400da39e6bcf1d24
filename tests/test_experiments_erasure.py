"""The experiments on the erasure of sites: their latents, their readers and their tables."""

import argparse
import dataclasses

import numpy as np
import pytest
from sklearn.decomposition import PCA

from experiments import erasure, erasure_components
from experiments.registry import EXPERIMENTS
from tests.engine.train_tiny import tiny_cohort


def scanned(rows: int = 120):
    """Volumes of three scanners with shifts of their own, and age; the third scanner's people are older."""
    generator, tiny = np.random.default_rng(0), tiny_cohort("volumes")
    site = (np.arange(rows) % 3).astype(np.int32)
    age = generator.uniform(50, 80, rows) + 6 * (site == 2)
    patterns = generator.normal(size=(4, *tiny.volumes.grid.shape))
    strengths = np.column_stack([np.eye(3)[site] * 3, (age - 65) / 10])
    inputs = np.tensordot(strengths, patterns, 1) + 2 * generator.normal(size=(rows, *tiny.volumes.grid.shape))
    split = np.where(np.arange(rows) < 80, "train", "test")
    return dataclasses.replace(
        tiny, inputs=inputs.astype(np.float32), site=site, site_names=("a", "b", "c"), covariates=age[:, None],
        target=generator.integers(0, 2, rows).astype(np.int32), split=split, volumes=tiny.volumes,
        participant_id=np.arange(rows).astype(str),
    )  # fmt: skip


def test_latents_are_the_scores_of_the_training_rows_components():
    cohort = scanned()
    train, flat = cohort.rows("train"), np.asarray(cohort.inputs, np.float64)[:, cohort.volumes.grid.mask]
    scores = PCA(5, svd_solver="full").fit(flat[train]).transform(flat)
    scores /= np.linalg.norm(scores, axis=1, keepdims=True)
    found = erasure_components._latents(cohort, 5)
    np.testing.assert_allclose(np.abs(found), np.abs(scores), atol=1e-6)


def test_the_conditional_form_hides_the_site_and_keeps_more_of_age():
    rows = {row["erased"]: row for row in erasure_components._of_split(scanned(), 6)}
    before, leace, ours = rows["nothing"], rows["LEACE, marginal"], rows["conditional on age and target"]
    assert before["site"] > 0.95 and leace["site"] < 0.5 and ours["site"] < 0.55
    assert before["age_r_squared"] > 0.7
    assert ours["age_r_squared"] > leace["age_r_squared"]


def test_the_table_of_components_has_a_row_for_each_erasure():
    values = {"site": 0.5, "age_mae": 5.0, "age_r_squared": 0.25, "target": 0.75}
    rows = [{"split": split, "erased": name} | values for split in (0, 1) for name in ("nothing", "LEACE, marginal")]
    content = {"config": "adni", "components": 64, "rows": rows}
    text = erasure_components.markdown(EXPERIMENTS["erasure_components"], content)
    assert "| nothing | 0.500 (0.000) | 5.00 (0.00) | 0.250 (0.000) | 0.750 (0.000) |" in text
    assert "over 2 splits" in text


def test_the_table_of_networks_has_the_differences_within_splits():
    def metrics(number: float) -> dict[str, float | None]:
        return dict.fromkeys(erasure.COLUMNS, number) | {"mmd": None}

    rows = [
        {"site_calibration": "none", "split_seed": split, "erase_site": setting, "metrics": metrics(split + change)}
        for split in (0, 1)
        for setting, change in (("none", 0.0), ("conditional", -0.25))
    ]
    content = {"config": "adni", "simulated": True, "set": [], "rows": rows}
    text = erasure.markdown(EXPERIMENTS["erasure"], content)
    assert "M unbiased" not in text  # undefined in every run
    assert "| none | difference | -0.250 (0.000) |" in text and "| none | none | 0.500 (0.707) |" in text


@pytest.mark.parametrize("name", ["erasure", "erasure_components"])
def test_the_usual_command_is_read(name):
    parser = argparse.ArgumentParser()
    module = {"erasure": erasure, "erasure_components": erasure_components}[name]
    module.add_flags(parser, EXPERIMENTS[name])
    assert parser.parse_args(EXPERIMENTS[name].flags.split()).splits == 3
