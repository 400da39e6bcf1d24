"""Codes for "missing" and far outliers among measurements that look as cohorts' do."""

import numpy as np
import pytest

from eqpool.data.preflight.sentinels import implausible_values

GENERATOR = np.random.default_rng(0)
AGES = {
    "adults": GENERATOR.uniform(18, 90, 200).round(1),
    "old": GENERATOR.normal(73, 7, 200).round(1),
    "children": GENERATOR.uniform(5, 18, 60).round(2),
    "few": np.arange(20.0, 70),
}


@pytest.mark.parametrize("age", list(AGES))
@pytest.mark.parametrize("code", [-9, -99, -999, -9999, -1, 999, 9999, 888, 777, 999.9])
@pytest.mark.parametrize("count", [1, 7])
def test_codes_among_ages(age, code, count):
    if code == -1 and age in ("adults", "few"):
        pytest.skip("less than a robust deviation below the youngest")
    values = AGES[age].copy()
    rows = np.sort(GENERATOR.permutation(len(values))[:count])
    values[rows] = code
    (found,) = implausible_values(values)
    assert (found.value, found.is_code) == (code, True)
    np.testing.assert_array_equal(found.rows, rows)


def test_several_codes_at_once():
    values = AGES["adults"].copy()
    values[[3, 9, 27, 28]] = [-9, -999, 999, np.nan]
    assert [(one.value, one.rows.tolist()) for one in implausible_values(values)] == [
        (-999, [9]),
        (-9, [3]),
        (999, [27]),
    ]


def test_an_age_of_99_is_one_beside_the_old_and_a_code_beside_the_young():
    assert implausible_values(np.r_[AGES["old"], np.arange(80, 99.0), 99]) == []
    assert implausible_values(np.r_[AGES["few"], 99])[0].is_code


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1, 2, 2, 1, 9, 1], [9]),  # sex
        ([0, 1, 1, 0, 9, 1], [9]),
        ([0, 1, 1, 0, -9, 1], [-9]),
        ([0, 1, 0, 1, 1], []),
        ([1, 9, 1, 9], []),  # two values are what they are
        ([70.0] * 5, []),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], []),
        (np.r_[np.arange(30.0, 60), 0], [0]),  # an age of 0
        (np.r_[np.zeros(20), np.arange(1.0, 40)], []),  # lesions: 0 is usual
        (np.r_[np.arange(20.0, 60), 250], [250]),  # an outlier
        (np.r_[np.arange(20.0, 60), 1962], [1962]),  # a year of birth
        ([], []),
        ([np.nan, np.nan], []),
    ],
)
def test_by_hand(values, found):
    assert [one.value for one in implausible_values(np.array(values, np.float64))] == found


@pytest.mark.parametrize("seed", range(20))
def test_what_was_measured_is_not_flagged(seed):
    generator = np.random.default_rng(seed)
    samples = [
        generator.normal(size=300),
        generator.normal(size=30),
        generator.exponential(size=300),
        generator.uniform(18, 95, 300).round(),
        generator.normal(1.5e6, 1.5e5, 300),
        generator.integers(0, 30, 200).astype(float),
        generator.integers(8, 21, 100).astype(float),  # years of education
    ]
    assert [implausible_values(sample) for sample in samples] == [[]] * len(samples)
