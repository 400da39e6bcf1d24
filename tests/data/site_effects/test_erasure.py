"""The closed-form erasure of sites, against F-tests of statsmodels' kind by least squares, and LEACE's formula."""

import numpy as np
import pytest
import scipy.linalg
import statsmodels.api as sm

from eqpool.data.site_effects.erasure import Erasure, erase_site, no_erasure
from eqpool.data.site_effects.kept import kept_columns

DIMENSION = 8


def pooled_latents(
    counts=(90, 70, 60), dimension=DIMENSION, seed=0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns latents with effects of site, age and diagnosis, the sites, age and diagnosis, and their effects."""
    generator = np.random.default_rng(seed)
    site = np.repeat(np.arange(len(counts)), counts)
    age, diagnosis = generator.normal(size=len(site)) + 0.7 * site, generator.integers(0, 2, len(site))
    effects = generator.normal(size=(2, dimension))
    noise = generator.normal(size=(len(site), dimension)) @ generator.normal(size=(dimension, dimension))
    offsets, kept = 2 * generator.normal(size=(len(counts), dimension)), np.column_stack([age, diagnosis])
    return noise + kept @ effects + offsets[site], site, kept, effects


def f_statistics(latent: np.ndarray, site: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """F of the site beside intercept, covariates and target, coordinate by coordinate."""
    design = np.column_stack([np.ones(len(site)), kept, site[:, None] == np.unique(site)[1:]]).astype(np.float64)
    tested = np.eye(design.shape[1])[1 + kept.shape[1] :]
    return np.array([float(sm.OLS(column, design).fit().f_test(tested).fvalue) for column in latent.T])


def test_no_linear_regression_finds_the_site_on_the_training_rows():
    latent, site, kept, _ = pooled_latents()
    assert f_statistics(latent, site, kept).min() > 1
    erased = erase_site(latent, site, kept).apply(latent)
    assert np.abs(f_statistics(erased, site, kept)).max() < 1e-10
    # The others keep their variance: only K - 1 of the directions are gone.
    assert np.linalg.matrix_rank(erased - erased.mean(axis=0), tol=1e-8) == DIMENSION - 2


def test_the_effects_of_covariates_and_target_stay():
    latent, site, kept, _ = pooled_latents()
    projection = erase_site(latent, site, kept).projection

    def effects(values: np.ndarray) -> np.ndarray:
        design = np.column_stack([np.ones(len(site)), kept, site[:, None] == [1, 2]])
        return np.linalg.lstsq(design, values, rcond=None)[0][1:3]

    np.testing.assert_allclose(effects(latent) @ projection.T, effects(latent), atol=1e-12)
    np.testing.assert_allclose(effects(erase_site(latent, site, kept).apply(latent)), effects(latent), atol=1e-10)
    np.testing.assert_allclose(projection @ projection, projection, atol=1e-12)


def test_held_out_rows_lose_the_site_and_keep_the_age():
    latent, site, kept, effects = pooled_latents(counts=(3000, 3000, 3000))
    train = np.random.default_rng(1).random(len(site)) < 0.5
    erased = erase_site(latent[train], site[train], kept[train]).apply(latent[~train])
    assert np.mean(f_statistics(erased, site[~train], kept[~train])) < 5  # the sites' own was hundreds
    design = np.column_stack([np.ones(len(site)), kept])[~train]
    np.testing.assert_allclose(np.linalg.lstsq(design, erased, rcond=None)[0][1:], effects, atol=0.2)


def leace(latent: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """P = I - W^+ (W Sigma_xz) (W Sigma_xz)^+ W with W = Sigma_xx^(-1/2) (Belrose et al. 2023), by loops."""
    count, dimension = latent.shape
    one_hot = np.array([[float(label == other) for other in range(labels.max() + 1)] for label in labels])
    x_mean, z_mean = latent.mean(axis=0), one_hot.mean(axis=0)
    of_x, of_xz = np.zeros((dimension, dimension)), np.zeros((dimension, one_hot.shape[1]))
    for row in range(count):
        of_x += np.outer(latent[row] - x_mean, latent[row] - x_mean) / count
        of_xz += np.outer(latent[row] - x_mean, one_hot[row] - z_mean) / count
    whitening = np.linalg.inv(scipy.linalg.sqrtm(of_x).real)
    seen = whitening @ of_xz
    return np.eye(dimension) - np.linalg.inv(whitening) @ seen @ np.linalg.pinv(seen, rcond=1e-9) @ whitening


def test_it_is_leace_without_covariates_and_target():
    latent, site, _, _ = pooled_latents()
    erasure = erase_site(latent, site, np.zeros((len(site), 0)))
    np.testing.assert_allclose(erasure.projection, leace(latent, site), atol=1e-9)
    np.testing.assert_allclose(erasure.mean, latent.mean(axis=0))


@pytest.mark.parametrize("site", [np.zeros(30, int), np.full(30, -1)])
def test_one_site_or_none_leaves_everything(site):
    latent = np.random.default_rng(0).normal(size=(30, 4))
    erasure = erase_site(latent, site, np.zeros((30, 1)))
    np.testing.assert_array_equal(erasure.apply(latent), latent)
    for part, expected in zip(erasure, no_erasure(4), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_covariates_that_are_the_site_leave_everything():
    latent, site, _, _ = pooled_latents()
    kept = (site[:, None] == [0, 1]).astype(float)
    np.testing.assert_array_equal(erase_site(latent, site, kept).projection, np.eye(DIMENSION))


@pytest.mark.parametrize("counts", [(60, 1), (60, 2, 1), (20, 1, 1, 1)])
def test_sites_with_few_rows(counts):
    latent, site, kept, _ = pooled_latents(counts)
    erased = erase_site(latent, site, kept).apply(latent)
    assert np.abs(f_statistics(erased, site, kept)).max() < 1e-8


@pytest.mark.parametrize("seed", range(3))
def test_latents_of_low_rank(seed):
    latent, site, kept, _ = pooled_latents(dimension=5, seed=seed)
    generator = np.random.default_rng(seed)
    wide = np.column_stack([latent @ generator.normal(size=(5, 9)), np.full(len(site), 3.0)]).astype(np.float32)
    erasure = erase_site(wide, site, kept)
    assert np.abs(erasure.projection).max() < 100
    erased = erasure.apply(wide)
    np.testing.assert_allclose(erased[:, -1], 3.0, atol=1e-5)  # a constant coordinate stays
    assert np.abs(f_statistics(erased[:, :9], site, kept)).max() < 1e-3  # float32 latents
    assert np.abs(f_statistics(wide[:, :9], site, kept)).max() > 10


def test_as_many_sites_as_dimensions_leave_nothing():
    latent, site, kept, _ = pooled_latents(counts=(40,) * 6, dimension=4)
    np.testing.assert_allclose(erase_site(latent, site, kept).projection, 0, atol=1e-10)


def test_an_age_effect_along_the_sites_is_erased_with_them():
    """No reader can tell the two apart, and the noise of one that almost could would swamp the latent."""
    generator = np.random.default_rng(0)
    site = np.repeat([0, 1], 200)
    age = generator.normal(size=400) + 0.5 * site
    latent = generator.normal(size=(400, 3))
    latent[:, 0] += 3 * site + 3 * age
    erasure = erase_site(latent, site, age[:, None])
    assert np.abs(f_statistics(erasure.apply(latent), site, age[:, None])).max() < 1e-10
    assert np.abs(erasure.projection).max() < 3


def test_rows_of_unknown_site_do_not_count_and_are_mapped():
    latent, site, kept, _ = pooled_latents()
    unknown = np.concatenate([site, np.full(5, -1)])
    wider = np.concatenate([latent, 1e3 + np.zeros((5, DIMENSION))])
    erasure = erase_site(wider, unknown, np.concatenate([kept, np.zeros((5, 2))]))
    np.testing.assert_allclose(erasure.projection, erase_site(latent, site, kept).projection, atol=1e-12)
    assert erasure.apply(wider).shape == wider.shape


def test_an_erasure_is_an_affine_map():
    erasure = Erasure(np.array([1.0, 2.0]), np.array([[0.0, 0.5], [0.0, 1.0]]))
    np.testing.assert_allclose(erasure.apply(np.array([[3.0, 6.0]])), [[1 + 0.5 * 4, 2 + 4]])


def test_columns_of_covariates_and_targets():
    covariate, known = np.array([[0.1], [0.2], [0.3]], np.float32), np.array([1, 0, 1], np.float32)
    classes, numbers = [[0.1, 1, 0, 1], [0.2, 0, 0, 0], [0.3, 0, 1, 1]], [[0.1, 4, 1], [0.2, 0, 0], [0.3, 5, 1]]
    np.testing.assert_allclose(kept_columns(covariate, np.array([1, 0, 2]), known, 3), classes, atol=1e-7)
    np.testing.assert_allclose(kept_columns(covariate, np.array([4.0, np.nan, 5.0]), known, 0), numbers, atol=1e-7)
