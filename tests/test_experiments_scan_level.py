"""The corrections of each scan, on made-up scans whose effects are known."""

import dataclasses

import numpy as np

from experiments import scan_level
from experiments.registry import EXPERIMENTS
from tests.engine.train_tiny import tiny_cohort

ROWS, VOXELS = 90, 343


def made_up(seed: int = 0):
    """Returns a cohort of three sites, scans of smooth anatomies without effects, and the places of their voxels."""
    generator = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.linspace(-1.5, 1.5, 7)] * 3, indexing="ij")).reshape(3, -1)
    cohort = dataclasses.replace(
        tiny_cohort("table"), site=(np.arange(ROWS) % 3).astype(np.int32), site_names=("a", "b", "c"),
        covariates=generator.uniform(50, 80, (ROWS, 1)), target=generator.integers(0, 2, ROWS).astype(np.int32),
        split=np.where(np.arange(ROWS) < 50, "train", np.where(np.arange(ROWS) < 65, "validation", "test")),
    )  # fmt: skip
    mean = np.sin(2 * places[0]) + np.cos(3 * places[1])
    scans = mean + 0.2 * generator.normal(size=(ROWS, 5)) @ generator.normal(size=(5, VOXELS))
    return cohort, scans + 0.05 * generator.normal(size=(ROWS, VOXELS)), places


def test_location_and_scale_are_those_of_the_average_site():
    cohort, scans, _ = made_up()
    effect = np.array([-1.0, 0.0, 1.0])[:, None] * np.linspace(0, 1, VOXELS)
    corrected, found = scan_level.location_and_scale(cohort, scans + effect[cohort.site])
    np.testing.assert_allclose(found, effect, atol=0.4)
    train, truth = cohort.split == "train", scans - scans.mean(axis=0)
    assert np.mean((corrected - corrected.mean(axis=0) - truth) ** 2) < 0.5 * np.mean(effect[cohort.site] ** 2)
    means = [corrected[train & (cohort.site == site)].mean(axis=0) for site in range(3)]
    assert np.abs(means[0] - means[2]).max() < 0.6  # was 2


def test_a_site_effect_that_varies_within_its_site_is_taken_back():
    cohort, scans, places = made_up()
    effects = np.stack([places[2] ** 2, -(places[2] ** 2), np.zeros(VOXELS)])
    amplitude = np.random.default_rng(1).normal(size=ROWS)
    disturbed = scans + amplitude[:, None] * effects[cohort.site]
    found = scan_level.own_site_effect(cohort, disturbed, np.where(effects == 0, 1e-9, effects), rank=10)
    test = cohort.split == "test"
    assert np.mean((found - scans)[test] ** 2) < 0.3 * np.mean((disturbed - scans)[test] ** 2)


def test_what_is_undone_is_neither_an_offset_nor_a_gain():
    cohort, scans, places = made_up()
    effects = scan_level.directions(scans[0], scan_level.fields(places))
    np.testing.assert_allclose(effects.mean(axis=1), 0, atol=1e-10)
    np.testing.assert_allclose(effects @ (scans[0] - scans[0].mean()), 0, atol=1e-9)
    assert effects.shape == (11, VOXELS)


def test_small_changes_of_the_family_are_undone():
    """What is read is taken back to first order, so that large changes are not."""
    cohort, scans, places = made_up()
    basis = scan_level.fields(places)
    generator = np.random.default_rng(2)
    drawn = 0.04 * generator.normal(size=(ROWS, 11))
    changed = np.stack(
        [scan + own @ scan_level.directions(scan, basis) for scan, own in zip(scans, drawn, strict=True)]
    )
    values = np.where((cohort.split == "test")[:, None], changed, scans)
    undone, r_squared = scan_level.undo(cohort, values, basis, 0.04)
    test = cohort.split == "test"
    assert r_squared > 0.9
    assert np.mean((undone - scans[test]) ** 2) < 0.3 * np.mean((changed - scans)[test] ** 2)


def test_the_table_has_a_row_for_each_correction():
    rows = [{"split": split, "correction": name, "error": 0.25} for split in (0, 1) for name in ("none", "and undo")]
    text = scan_level.markdown(EXPERIMENTS["scan_level"], {"config": "adni", "rows": rows})
    assert "| none | 0.2500 (0.0000) |" in text and "over 2 splits" in text
