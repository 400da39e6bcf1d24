"""Voxelwise statistics against statsmodels, nilearn and scipy on the same numbers."""

import numpy as np
import pytest
import statsmodels.api as sm
from nilearn.mass_univariate import permuted_ols
from scipy import stats
from statsmodels.stats.multitest import multipletests

from eqpool.evaluate.statistics import (
    indicators,
    is_estimable,
    partial_r_squared,
    significant,
    t_map,
    t_threshold,
)

ROWS, VOXELS = 40, 23
RANDOM = np.random.default_rng(0)
GROUP = (np.arange(ROWS) % 3 == 0).astype(float)
AGE = RANDOM.uniform(50, 90, ROWS)
SITE = RANDOM.integers(0, 3, ROWS)
NUISANCE = np.column_stack([AGE, indicators(SITE)])
VALUES = (
    RANDOM.normal(size=(ROWS, VOXELS)) * np.logspace(-2, 3, VOXELS)
    + np.outer(GROUP, np.linspace(-2, 2, VOXELS))
    + np.outer(AGE, np.linspace(0.1, -0.1, VOXELS))
    + 1e3
)


def fitted(voxel: int, *columns: np.ndarray):
    return sm.OLS(VALUES[:, voxel], sm.add_constant(np.column_stack(columns))).fit()


def tiles(size: int = 7):
    return np.split(VALUES, range(size, VOXELS, size), axis=1)


def test_t_is_that_of_statsmodels():
    result = t_map(tiles(), GROUP, NUISANCE)
    for voxel in range(VOXELS):
        model = fitted(voxel, GROUP, NUISANCE)
        np.testing.assert_allclose(result.effect[voxel], model.params[1], rtol=1e-8)
        np.testing.assert_allclose(result.t[voxel], model.tvalues[1], rtol=1e-8)
        np.testing.assert_allclose(result.p[voxel], model.pvalues[1], rtol=1e-7)
        assert result.degrees_of_freedom == model.df_resid


def test_t_is_that_of_nilearn():
    expected = permuted_ols(GROUP, VALUES, NUISANCE, model_intercept=True, n_perm=0, output_type="dict", verbose=0)["t"]
    np.testing.assert_allclose(t_map(tiles(), GROUP, NUISANCE).t, expected[0], rtol=1e-4)


def test_without_nuisance_it_is_the_two_sample_test():
    expected = stats.ttest_ind(VALUES[GROUP == 1], VALUES[GROUP == 0])
    result = t_map(tiles(), GROUP, np.zeros((ROWS, 0)))
    np.testing.assert_allclose(result.t, expected.statistic, rtol=1e-8)
    np.testing.assert_allclose(result.p, expected.pvalue, rtol=1e-7)


def test_partial_r_squared_is_what_the_nested_models_differ_by():
    result = partial_r_squared(tiles(), indicators(SITE), np.column_stack([AGE, GROUP]))
    for voxel in range(VOXELS):
        full, reduced = fitted(voxel, AGE, GROUP, indicators(SITE)), fitted(voxel, AGE, GROUP)
        np.testing.assert_allclose(result.r_squared[voxel], 1 - full.ssr / reduced.ssr, rtol=1e-6, atol=1e-10)
        np.testing.assert_allclose(result.p[voxel], full.compare_f_test(reduced)[1], rtol=1e-6)


def test_voxels_of_noise_have_the_share_that_chance_gives():
    random = np.random.default_rng(0)
    site, age = indicators(np.arange(40) % 4), random.normal(size=(40, 1))
    found = partial_r_squared([random.normal(size=(40, 20_000))], site, age)
    assert found.r_squared.mean() == pytest.approx(found.by_chance, rel=0.02)
    assert found.by_chance == pytest.approx(3 / (40 - 2))


def test_what_can_be_estimated_is_what_is_not_refused():
    random = np.random.default_rng(0)
    age, noise = random.normal(size=(12, 1)), random.normal(size=(12, 2))
    assert is_estimable(noise, age)
    for of_interest, nuisance in (
        (2 * age + 1, age),
        (np.ones((12, 1)), age),
        (noise[:, :0], age),
        (noise[:3], age[:3]),
    ):
        assert not is_estimable(of_interest, nuisance)


@pytest.mark.parametrize("size", [1, 5, VOXELS, 100])
def test_the_size_of_tiles_changes_nothing(size):
    whole, tiled = (t_map(tiles(one), GROUP, NUISANCE) for one in (VOXELS, size))
    np.testing.assert_allclose(tiled.t, whole.t, rtol=1e-8)


@pytest.mark.parametrize(("correction", "name"), [("bonferroni", "bonferroni"), ("fdr", "fdr_bh")])
def test_corrections_are_those_of_statsmodels(correction, name):
    for seed in range(5):
        p = np.random.default_rng(seed).uniform(size=200) ** 4
        expected = multipletests(p, 0.01, name)[0]
        assert expected.any()
        np.testing.assert_array_equal(significant(p, correction, 0.01), expected)
    assert not significant(np.full(10, 0.5), correction).any()


def test_the_threshold_is_where_bonferroni_begins():
    threshold = t_threshold(500, 30)
    assert significant(2 * stats.t.sf([threshold * 1.001], 30).repeat(500))[0]
    assert not significant(2 * stats.t.sf([threshold * 0.999], 30).repeat(500))[0]


def test_constant_voxels_have_no_effect():
    values = np.column_stack([np.full(ROWS, 7.3), VALUES[:, 0], np.zeros(ROWS)])
    result = t_map([values], GROUP, NUISANCE)
    assert result.t[0] == result.t[2] == 0 and result.p[0] == result.p[2] == 1 and result.t[1] != 0
    share = partial_r_squared([values], indicators(SITE), AGE[:, None])
    assert share.r_squared[0] == share.r_squared[2] == 0 and share.p[0] == share.p[2] == 1


def test_a_perfect_effect_does_not_divide_by_zero():
    result = t_map([(GROUP * 3 + 1)[:, None]], GROUP, AGE[:, None])
    assert abs(result.t[0]) > 1e6 and result.p[0] < 1e-100


def test_constant_and_repeated_nuisance_cost_no_freedom():
    plain = t_map(tiles(), GROUP, AGE[:, None])
    repeated = t_map(tiles(), GROUP, np.column_stack([AGE, 2 * AGE + 1, np.ones(ROWS)]))
    np.testing.assert_allclose(repeated.t, plain.t, rtol=1e-8)
    assert repeated.degrees_of_freedom == plain.degrees_of_freedom == ROWS - 3


def test_shuffled_diagnoses_are_found_at_the_nominal_rate():
    """Correlated voxels, as decodes are, with a covariate that matters; the diagnosis is shuffled."""
    random = np.random.default_rng(1)
    rates = []
    for _ in range(60):
        latent = random.normal(size=(ROWS, 8)) @ random.normal(size=(8, 300))
        values = latent + random.normal(size=(ROWS, 300)) + 0.05 * AGE[:, None]
        p = t_map([values], random.permutation(GROUP), AGE[:, None]).p
        rates.append([np.mean(p < 0.05), np.mean(p < 0.001), significant(p, "bonferroni", 0.05).any()])
    five, tenth, familywise = np.mean(rates, axis=0)
    assert 0.035 < five < 0.065  # 18 000 correlated tests: a deviation of about 0.004
    assert tenth < 0.003
    assert familywise < 0.15  # at most 0.05, of 60


@pytest.mark.parametrize(
    ("of_interest", "nuisance", "expected"),
    [
        (GROUP, GROUP[:, None], "explained by the others"),
        (np.ones(ROWS), AGE[:, None], "constant"),
        (np.full(ROWS, np.nan), AGE[:, None], "not finite"),
        (GROUP, AGE[:-1, None], "expected"),
        (GROUP, np.random.default_rng(0).normal(size=(ROWS, ROWS)), "the others|more rows"),
    ],
)
def test_a_bad_design_says_so(of_interest, nuisance, expected):
    with pytest.raises(ValueError, match=expected):
        t_map(tiles(), of_interest, nuisance)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_values_that_have_no_square_are_refused(bad):
    spoilt = VALUES.copy()
    spoilt[3, 5] = bad
    for statistic, of_interest in ((t_map, GROUP), (partial_r_squared, GROUP[:, None])):
        with pytest.raises(ValueError, match="a tile holds 1 values that are not finite or above"):
            statistic([spoilt], of_interest, NUISANCE)
        with pytest.raises(ValueError, match="nuisance has values that are not finite"):
            statistic([VALUES], of_interest, np.full_like(NUISANCE, np.nan if bad == 1e200 else bad))
    with pytest.raises(ValueError, match="correction is 'holm', expected"):
        significant(np.ones(3), "holm")
    assert np.isnan(t_threshold(0, 10))
