import numpy as np
import patsy
import pytest

from eqpool.data.tables.splines import CovariateDesign, restricted_cubic_spline

KNOTS = np.array([-1.0, -0.2, 0.3, 1.4])


def test_they_span_the_natural_cubic_splines_of_patsy():
    values = np.linspace(-2, 2.5, 60)
    inside = (values > KNOTS[0]) & (values < KNOTS[-1])
    ours = np.column_stack([np.ones(60), values, restricted_cubic_spline(values, KNOTS)])[inside]
    # patsy's natural splines with these knots; it takes the outer two from the data's bounds.
    theirs = np.asarray(
        patsy.dmatrix("cr(x, knots=(-0.2, 0.3), lower_bound=-1, upper_bound=1.4) - 1", {"x": values[inside]})
    )
    for first, second in ((ours, theirs), (theirs, ours)):
        fitted = first @ np.linalg.lstsq(first, second, rcond=None)[0]
        np.testing.assert_allclose(fitted, second, atol=1e-9)


@pytest.mark.parametrize("side", [np.linspace(-9, -1.0, 9), np.linspace(1.4, 9, 9)])
def test_beyond_the_outer_knots_they_are_straight(side):
    second_differences = np.diff(restricted_cubic_spline(side, KNOTS), n=2, axis=0)
    np.testing.assert_allclose(second_differences, 0, atol=1e-9)


def test_a_binary_covariate_stays_one_column():
    covariates = np.column_stack([np.arange(40.0), np.arange(40) % 2])
    design = CovariateDesign.fit(covariates)
    columns = design.apply(covariates)
    assert columns.shape == (40, 4)  # age and its two curves, sex
    np.testing.assert_allclose(columns[:, :2].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(columns[:, :2].std(axis=0), 1, atol=1e-12)


def test_none_and_constant_covariates():
    assert CovariateDesign.fit(np.zeros((5, 0))).apply(np.zeros((3, 0))).shape == (3, 0)
    np.testing.assert_array_equal(CovariateDesign.fit(np.full((5, 1), 7.0)).apply(np.full((2, 1), 7.0)), 0)
