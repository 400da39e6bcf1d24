"""Partial R^2 against statsmodels' nested models, and its level by chance against unrelated noise."""

import numpy as np
import pytest

from eqpool.evaluate.shares import SharesOfVariance, subtract, summarise


def cohort(rows: int = 90, columns: int = 12, seed: int = 0):
    """(site, covariates, target, values): three sites, two covariates, a target that leans on the site."""
    generator = np.random.default_rng(seed)
    site = generator.integers(0, 3, rows)
    covariates = np.stack([50 + 10 * generator.normal(size=rows) + 4 * site, generator.integers(0, 2, rows)], axis=1)
    target = (generator.uniform(size=rows) < 0.3 + 0.2 * (site == 1)).astype(np.int32)
    values = generator.normal(size=(rows, columns)) + site[:, None] + 0.05 * covariates[:, :1] + 0.4 * target[:, None]
    return site, covariates, target, values.astype(np.float32)


def r_squared(values: np.ndarray, design: np.ndarray) -> np.ndarray:
    statsmodels = pytest.importorskip("statsmodels.api")
    fits = [statsmodels.OLS(column.astype(np.float64), design).fit().ssr for column in values.T]
    return np.array(fits)


def test_shares_equal_those_of_statsmodels_nested_models():
    site, covariates, target, values = cohort()
    shares = SharesOfVariance.of(site, covariates, target, ("a", "b"), np.arange(90))
    found = summarise(shares.measure(values, np.arange(90), 0))
    columns = {
        "site": np.eye(3)[site][:, 1:],
        "covariate": covariates[:, :1],
        "target": target[:, None].astype(float),
        "other": covariates[:, 1:],
    }
    everything = np.column_stack([np.ones(90), *columns.values()])
    for name in ("site", "covariate", "target"):
        without = np.column_stack([np.ones(90), *(value for other, value in columns.items() if other != name)])
        expected = 1 - r_squared(values, everything) / r_squared(values, without)
        assert found[f"partial_r_squared_{name}"] == pytest.approx(expected.mean(), abs=1e-6)
        low, high = found[f"partial_r_squared_{name}_interval"]
        assert low < found[f"partial_r_squared_{name}"] < high


def test_rows_without_site_or_target_are_left_out():
    site, covariates, target, values = cohort()
    unknown = np.arange(90) % 9 == 0
    some_site, some_target = np.where(unknown, -1, site), np.where(np.arange(90) % 9 == 1, -1, target)
    kept = np.flatnonzero(np.arange(90) % 9 > 1)
    whole = SharesOfVariance.of(some_site, covariates, some_target, ("a", "b"), np.arange(90))
    part = SharesOfVariance.of(site, covariates, target, ("a", "b"), kept)
    assert whole.rows.tolist() == kept.tolist()
    for name, found in whole.measure(values, np.arange(90), 0).items():
        np.testing.assert_array_equal(found, part.measure(values, np.arange(90), 0)[name])


def test_the_level_by_chance_is_that_of_unrelated_columns():
    site, covariates, target, _ = cohort()
    shares = SharesOfVariance.of(site, covariates, target, ("a", "b"), np.arange(90))
    noise = np.random.default_rng(1).normal(size=(90, 3000))
    found, levels = summarise(shares.measure(noise, np.arange(90), 0)), shares.by_chance()
    for name in ("site", "covariate", "target"):
        assert found[f"partial_r_squared_{name}"] == pytest.approx(
            levels[f"partial_r_squared_{name}_by_chance"], rel=0.1
        )


def test_a_version_without_the_site_has_less_of_it_for_certain():
    site, covariates, target, values = cohort()
    shares = SharesOfVariance.of(site, covariates, target, ("a", "b"), np.arange(90))
    parts = [shares.measure(one, np.arange(90), 0) for one in (values - site[:, None], values)]
    change = summarise(subtract(*parts))
    assert change["partial_r_squared_site_interval"][1] < 0


def test_a_site_that_is_collinear_with_the_target_has_no_share():
    site, covariates, _, values = cohort()
    shares = SharesOfVariance.of(site, covariates, (site == 1).astype(np.int32), ("a", "b"), np.arange(90))
    found = summarise(shares.measure(values, np.arange(90), 0))
    assert np.isnan(found["partial_r_squared_target"]) and found["partial_r_squared_target_interval"] is None
    assert found["partial_r_squared_covariate"] > 0


def test_of_many_columns_every_second_or_third_is_used(monkeypatch):
    site, covariates, target, values = cohort()
    shares = SharesOfVariance.of(site, covariates, target, ("a", "b"), np.arange(90))
    expected = shares.measure(values[:, ::3], np.arange(90), 0)
    monkeypatch.setattr("eqpool.evaluate.shares.MOST_VALUES", 90 * 5)
    for name, found in shares.measure(values, np.arange(90), 0).items():
        np.testing.assert_array_equal(found, expected[name])
