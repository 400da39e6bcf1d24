"""The pre-flight check's numbers against scipy, statsmodels and hand-made cases."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api
import statsmodels.formula.api

from eqpool.data.preflight.association import (
    condition_number,
    contingency,
    cramers_v,
    decided_by,
    eta_squared,
    overlap,
    site_design,
)


@pytest.fixture
def drawn():
    generator = np.random.default_rng(0)
    site = generator.integers(0, 4, 90)
    return site, 3.0 * site + generator.normal(size=90), (site + generator.integers(0, 2, 90)) % 3


def test_eta_squared_is_the_r_squared_of_an_analysis_of_variance(drawn):
    site, values, _ = drawn
    fit = statsmodels.formula.api.ols("v ~ C(s)", pd.DataFrame({"v": values, "s": site})).fit()
    assert eta_squared(values, site) == pytest.approx(fit.rsquared, rel=1e-12)


def test_cramers_v_is_scipys(drawn):
    site, _, label = drawn
    counts = contingency(site, label)
    assert counts.sum() == 90
    np.testing.assert_array_equal(counts, scipy.stats.contingency.crosstab(site, label)[1])
    expected = scipy.stats.contingency.association(counts, method="cramer", correction=False)
    assert cramers_v(site, label) == pytest.approx(expected, rel=1e-12)


def test_unknown_rows_are_left_out(drawn):
    site, values, label = drawn
    hidden = np.arange(90) % 5 == 0
    kept = ~hidden
    assert eta_squared(np.where(hidden, np.nan, values), site) == pytest.approx(eta_squared(values[kept], site[kept]))
    assert cramers_v(np.where(hidden, -1, site), label) == pytest.approx(cramers_v(site[kept], label[kept]))


def test_without_variance_or_levels_there_is_no_number():
    assert np.isnan(eta_squared(np.ones(4), np.array([0, 0, 1, 1])))
    assert np.isnan(eta_squared(np.array([1.0]), np.array([0])))
    assert np.isnan(cramers_v(np.zeros(4, int), np.array([0, 0, 1, 1])))


def test_decided_by():
    site = np.array([0, 0, 1, 1, 2])
    assert decided_by(np.array([1, 1, 0, 0, 1]), site)
    assert not decided_by(np.array([1, 1, 0, 1, 1]), site)
    assert not decided_by(np.array([1, 1, 1, 1, 1]), site)  # a constant is another fault
    assert decided_by(np.array([1, -1, 0, 0, -1]), site)  # what is unknown decides nothing


def test_condition_number_is_statsmodels_on_columns_of_unit_length(drawn):
    site, values, _ = drawn
    design = site_design(site, values[:, None])
    scaled = design / np.linalg.norm(design, axis=0)
    expected = statsmodels.api.OLS(np.zeros(90), scaled).fit().condition_number
    assert condition_number(design) == pytest.approx(expected, rel=1e-9)
    assert condition_number(np.column_stack([design, design[:, 0]])) == float("inf")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((20, 40), (30, 60), 0.5),
        ((20, 40), (25, 30), 1.0),
        ((20, 40), (41, 50), 0.0),
        ((20, 40), (30, 30), 1.0),
        ((30, 30), (31, 31), 0.0),
    ],
)
def test_overlap(first, second, expected):
    assert overlap(first, second) == overlap(second, first) == expected
