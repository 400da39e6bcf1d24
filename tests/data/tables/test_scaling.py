import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import StandardScaler

from eqpool.data.tables.encoding import NumberColumn, fit_encoding
from eqpool.data.tables.scaling import ColumnScaling, pooled_change
from eqpool.errors import InputError

GENERATOR = np.random.default_rng(0)
VARYING = {
    "usual": GENERATOR.normal(size=50),
    "tiny": 1e-13 * GENERATOR.normal(size=50),
    "tiny, on an offset": 5e-13 + 1e-13 * GENERATOR.normal(size=50),
    "squares underflow": 1e-200 * GENERATOR.normal(size=50),
    "large": 1e29 * GENERATOR.normal(size=50),
    "a large offset": 1e8 + GENERATOR.normal(size=50),
    "a step": np.r_[np.zeros(49), 1.0],
    "a year": 2000.0 + np.arange(50) % 2,
}
CONSTANT = {
    "zeros": np.zeros(50),
    "minus zeros": np.where(np.arange(50) % 2, 0.0, -0.0),
    "a small number": np.full(50, 1e-3),
    "tiny": np.full(50, 1e-300),
    "rounding": 0.1 + 0.2 + 1e-16 * GENERATOR.integers(-1, 2, 50),
    "large with rounding": 1e8 * (1 + 2e-16 * GENERATOR.integers(-2, 3, 50)),
    "negative": np.full(50, -1e25),
}


@pytest.mark.parametrize("name", list(VARYING))
def test_a_column_that_varies(name):
    values = VARYING[name]
    scaling = ColumnScaling.fit(values[:, None])
    exact = values.astype(np.longdouble)
    deviation = float(np.sqrt(np.mean(((exact - exact.mean()) / np.ptp(exact)) ** 2)) * np.ptp(exact))
    assert not scaling.constant[0]
    np.testing.assert_allclose(scaling.mean[0], float(exact.mean()), rtol=1e-12, atol=1e-12 * deviation)
    np.testing.assert_allclose(scaling.deviation[0], deviation, rtol=1e-9)
    scores = scaling.apply(values[:, None])
    np.testing.assert_allclose([scores.mean(), scores.std()], [0, 1], atol=1e-7)


@pytest.mark.parametrize("name", list(CONSTANT))
def test_a_constant_column_comes_back_as_it_is(name):
    values = CONSTANT[name]
    scaling = ColumnScaling.fit(values[:, None])
    assert scaling.constant[0] and scaling.deviation[0] == 1
    np.testing.assert_array_equal(scaling.with_change(values[:, None], np.ones((50, 1)))[:, 0], values)


def test_it_is_the_usual_z_score():
    values = GENERATOR.normal(size=(40, 3)) * [1, 10, 1e-4] + [0, 1e3, 5]
    expected = StandardScaler().fit_transform(values)
    np.testing.assert_allclose(ColumnScaling.fit(values).apply(values), expected, rtol=1e-9, atol=1e-9)
    values[3, 1] = np.nan
    scaling = ColumnScaling.fit(values)
    np.testing.assert_allclose(scaling.deviation, np.nanstd(values, axis=0), rtol=1e-12)
    assert scaling.apply(values)[3, 1] == 0
    column = fit_encoding(pd.DataFrame({"b": values[:, 1]}), np.arange(40)).columns[0]
    assert column == NumberColumn("b", scaling.mean[1], scaling.deviation[1], False, True)


def test_a_column_without_values():
    scaling = ColumnScaling.fit(np.full((4, 1), np.nan))
    np.testing.assert_array_equal(scaling.apply(np.array([[np.nan], [2.0]])), [[0], [2]])


def test_signs_are_kept_where_training_had_no_negative_value():
    scaling = ColumnScaling.fit(np.array([[0.0, -1, np.nan], [2, 1, 3]]))
    made, clipped = scaling.clipped(np.array([[-1.0, -5, -1e-9], [np.nan, 0, 4], [-2, 1, 1]]))
    np.testing.assert_array_equal(made, [[0, -5, 0], [np.nan, 0, 4], [0, 1, 1]])
    assert clipped.tolist() == [2, 0, 1]
    unknown = ColumnScaling(scaling.mean, scaling.deviation, scaling.constant, None)
    with pytest.raises(InputError, match="keep_sign: the model is of an earlier version"):
        unknown.clipped(made)


def test_the_change_of_pooling():
    inputs, calibrated, decoded, pooled = GENERATOR.normal(size=(4, 5, 2))
    change = pooled_change(inputs, calibrated, decoded, pooled)
    np.testing.assert_allclose(inputs + change, calibrated + pooled - decoded)
    np.testing.assert_allclose(inputs + pooled_change(inputs, calibrated, calibrated, pooled), pooled)
