"""The truth of harmonising to a reference: its own images are as they are, the others differ by the scanner alone."""

import dataclasses

import numpy as np
import pytest

from eqpool.config import DataConfig
from eqpool.data.load import load_cohort
from eqpool.data.reference_view import reference_views
from tests.data.sources.strokes import idx, mnist_like, write_mnist


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """(config, cohort, cache) of 18 simulated volumes that are prepared with a tanh."""
    cache = tmp_path_factory.mktemp("cache")
    config = DataConfig(dataset="adcp", simulated_fraction=0.0, grid="16x20x16", squash=True, workers=1)
    return config, load_cohort(config, cache, progress=False), cache


def views_of(cohort, config, cache, rows, reference) -> np.ndarray:
    return np.stack(list(reference_views(cohort, config, rows, reference, cache)))


def test_a_brain_of_the_reference_is_as_it_is_and_another_s_is_nearer_to_its_truth(brains):
    config, cohort, cache = brains
    rows = np.arange(len(cohort.site))
    for reference in (0, 2):
        views = views_of(cohort, config, cache, rows, cohort.site_names[reference])
        inputs, mask = np.stack([cohort.inputs[row] for row in rows]), cohort.volumes.grid.mask
        differ = np.sqrt(np.mean((views - inputs)[:, mask] ** 2, axis=1))
        assert views.dtype == np.float32 and (views[:, ~mask] == 0).all()
        assert differ[cohort.site == reference].max() < 0.01 < 0.05 < differ[cohort.site != reference].min()


def test_what_is_not_simulated_here_has_no_view(brains):
    config, cohort, cache = brains
    real = dataclasses.replace(cohort, simulated=False)
    other = dataclasses.replace(cohort, name="participants")
    for unknown in (real, other):
        assert reference_views(unknown, config, np.arange(3), "site1", cache) is None


def test_digits_are_drawn_as_the_cohort_has_them_in_the_other_domain(tmp_path, monkeypatch):
    images = {"train": idx(mnist_like(40)), "test": idx(mnist_like(10, seed=1))}
    raw = write_mnist(tmp_path / "raw", monkeypatch, **images)
    config = DataConfig(
        dataset="morpho_mnist", raw_dir=str(raw), target_domain="thick_slanted", train_digits=36, test_digits=10,
        split_seed=4, workers=1,
    )  # fmt: skip
    cohort = load_cohort(config, tmp_path / "cache", progress=False)
    source, target = (np.flatnonzero((cohort.site == site) & (cohort.split == "test")) for site in (0, 1))
    views = views_of(cohort, config, tmp_path / "cache", source, "thick_slanted")
    np.testing.assert_array_equal(views, cohort.inputs[target])
    trained = np.flatnonzero((cohort.site == 1) & (cohort.split != "test"))[::3]
    views = views_of(cohort, config, tmp_path / "cache", trained, "thick_slanted")
    np.testing.assert_array_equal(views, cohort.inputs[trained])
    views = views_of(cohort, config, tmp_path / "cache", np.array([0]), "thick_slanted")
    assert np.abs(views - cohort.inputs[:1]).max() > 1
