"""The estimator's scale of the networks' change, and its erasure of sites: fitted, saved, loaded, refused."""

import json
import warnings

import numpy as np
import pytest

from eqpool.errors import InputError
from eqpool.estimator import DesignWarning, EquivariantPooling

SMALL = {"latent_dim": 4, "hidden_units": 8, "batch_size": 32, "epochs": 1, "calibrate_sites": "none"}


def features() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator, number = np.random.default_rng(0), np.arange(80)
    site, age = number % 2, generator.uniform(20, 80, 80)
    X = generator.normal(size=(80, 3)) - age[:, None] / 30 + 2.0 * site[:, None]
    return X, number // 2 % 2, np.where(site, "B", "A"), age


def fitted(**parameters) -> EquivariantPooling:
    X, y, site, age = features()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DesignWarning)
        return EquivariantPooling(**SMALL | parameters).fit(X, y, site=site, covariates=age)


@pytest.fixture(scope="module")
def quarter() -> EquivariantPooling:
    return fitted(change_scale=0.25, erase_site=True)


def test_the_change_is_scaled(quarter):
    X, _, site, _ = features()
    assert quarter.change_scale_ == 0.25
    scaled = quarter.harmonise(X, site)
    try:
        quarter.change_scale_ = 1.0
        whole = quarter.harmonise(X, site)
    finally:
        quarter.change_scale_ = 0.25
    assert np.abs(whole - X).max() > 0.1
    np.testing.assert_allclose(scaled - X, 0.25 * (whole - X), atol=1e-6)


def test_it_is_saved_with_the_erasure(quarter, tmp_path):
    X, _, site, _ = features()
    quarter.save(tmp_path / "model.npz")
    loaded = EquivariantPooling.load(tmp_path / "model.npz")
    assert loaded.change_scale_ == 0.25 and loaded.erase_site is True
    np.testing.assert_array_equal(loaded.harmonise(X, site), quarter.harmonise(X, site))
    projection = loaded.pooling_.stage_two["constants"]["erasure"]["projection"]
    assert np.linalg.matrix_rank(projection, tol=1e-3) == 3


def test_a_file_without_scale_and_erasure_gives_what_it_gave(tmp_path):
    X, _, site, _ = features()
    estimator = fitted(change_scale=1.0)
    estimator.save(tmp_path / "model.npz")
    arrays = dict(np.load(tmp_path / "model.npz"))
    header = json.loads(str(arrays["header"]))
    del header["change_scale"], header["parameters"]["change_scale"], header["parameters"]["erase_site"]
    np.savez(tmp_path / "old.npz", **arrays | {"header": np.array(json.dumps(header))})
    loaded = EquivariantPooling.load(tmp_path / "old.npz")
    assert loaded.change_scale_ == 1.0
    np.testing.assert_array_equal(loaded.harmonise(X, site), estimator.harmonise(X, site))


def test_networks_of_one_site_or_none_do_not_change_features():
    X, y, _, age = features()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = EquivariantPooling(**SMALL).fit(X, y, covariates=age)
    assert estimator.change_scale_ == 0
    np.testing.assert_allclose(estimator.harmonise(X), X)


@pytest.mark.parametrize("value", [-0.1, 1.5, "half", True, np.nan])
def test_bad_scales_are_refused(value):
    with pytest.raises(InputError, match='change_scale = .*: expected "auto", or a number from 0 to 1'):
        fitted(change_scale=value)
