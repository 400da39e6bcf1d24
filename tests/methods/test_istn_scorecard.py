"""The scorecard of an ISTN, with made-up transformers: one that changes nothing and one that is perfect."""

import dataclasses

import numpy as np
import pytest

from eqpool.config import DataConfig, EvaluateConfig
from eqpool.data.load import load_cohort
from eqpool.data.reference_view import reference_views
from eqpool.methods.istn_scorecard import score_istn
from eqpool.methods.istn_volumes import Harmonised
from tests.conftest import tiny_config
from tests.data.sources.strokes import idx, mnist_like, write_mnist

QUICK = EvaluateConfig(probe_folds=2, bootstraps=20, scorecard_permutations=2)
REFERENCE = 1


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """(config, cohort, cache) of 36 simulated volumes of three sites."""
    folder = tmp_path_factory.mktemp("brains")
    data = DataConfig(dataset="adcp", simulated_fraction=0.3, grid="16x20x16", squash=True, balance="site", workers=1)
    config = dataclasses.replace(tiny_config(folder), method="istn", data=data, evaluate=QUICK)
    return config, load_cohort(data, folder / "cache", progress=False), folder / "cache"


def perfect(config, cohort, cache):
    """A transformer that knows how the reference would show each image; images are told apart by their voxels."""
    rows = np.arange(len(cohort.site))
    views = reference_views(cohort, config.data, rows, cohort.site_names[REFERENCE], cache)
    known = {np.asarray(cohort.inputs[row]).tobytes(): view for row, view in zip(rows, views, strict=True)}

    def harmonise(image: np.ndarray, site: int) -> Harmonised:
        assert site != REFERENCE
        return Harmonised(known[np.asarray(image).tobytes()], None)

    return harmonise


def test_a_transformer_that_changes_nothing_scores_as_the_input(brains):
    config, cohort, cache = brains
    card = score_istn(cohort, config, cache, lambda image, site: Harmonised(image, None), REFERENCE)
    assert list(card["versions"]) == ["raw", "combat", "istn", "truth"]
    assert card["versions"]["istn"] == card["versions"]["raw"]
    zero = {key: value for key, value in card["differences"]["raw"].items() if not key.endswith("_interval")}
    assert set(zero.values()) <= {0.0, None} and card["covariate"] == "age" and card["target"] == "dx"
    assert (card["truth_is"], card["reference"], card["unit"]) == ("as_reference", "site2", "z-scores")


def test_a_perfect_transformer_has_no_error_and_keeps_the_differences_between_people(brains):
    config, cohort, cache = brains
    versions = score_istn(cohort, config, cache, perfect(config, cohort, cache), REFERENCE)["versions"]
    assert versions["istn"]["error_to_truth"] < 0.01 < 0.1 < versions["raw"]["error_to_truth"]
    assert versions["istn"]["pairwise_correlation_to_truth"] == pytest.approx(1, abs=1e-3)
    assert versions["raw"]["pairwise_correlation_to_truth"] < versions["istn"]["pairwise_correlation_to_truth"]
    kept = versions["istn"]["pairwise_correlation_to_raw"]
    assert kept == pytest.approx(versions["raw"]["pairwise_correlation_to_truth"], abs=1e-3)
    assert versions["istn"]["site_shuffled"] > 0 and "site_shuffled" not in versions["combat"]
    assert versions["istn"]["partial_r_squared_site"] < versions["raw"]["partial_r_squared_site"]


def test_digits_have_the_error_in_their_own_intensities_and_no_row_of_their_classes(tmp_path, monkeypatch):
    images = {"train": idx(mnist_like(40)), "test": idx(mnist_like(20, seed=1))}
    raw_dir = str(write_mnist(tmp_path / "raw", monkeypatch, **images))
    data = DataConfig(dataset="morpho_mnist", raw_dir=raw_dir, train_digits=40, test_digits=20, workers=1)
    config = dataclasses.replace(tiny_config(tmp_path), method="istn", data=data, evaluate=QUICK)
    cohort = load_cohort(data, tmp_path / "cache", progress=False)
    card = score_istn(cohort, config, tmp_path / "cache", perfect(config, cohort, tmp_path / "cache"), REFERENCE)
    thin, thick = (cohort.inputs[(cohort.split == "test") & (cohort.site == site)] for site in (0, 1))
    errors = np.sqrt(((thin - thick) ** 2).mean(axis=(1, 2)))
    assert card["versions"]["raw"]["error_to_truth"] == pytest.approx(errors.mean(), rel=1e-5)
    assert card["versions"]["istn"]["error_to_truth"] == 0 and card["unit"] == "intensities from -1 to 1"
    assert card["features"] == 784 and card["target"] == card["covariate"] == ""
    assert not [key for scores in card["versions"].values() for key in scores if "target" in key or "covariate" in key]
