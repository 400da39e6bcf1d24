"""Intervals cover what they should: against the textbook formula for a mean, and by simulation for pairs."""

import numpy as np
import pytest
from scipy import stats

from eqpool.evaluate.intervals import bootstrap_interval, jackknife_interval, jackknife_masks, percentile_interval


def test_the_bootstrap_of_a_mean_is_the_textbook_interval():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = bootstrap_interval(lambda rows: values[rows].mean(), 400, 2000, 0)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.05)
    assert high == pytest.approx(values.mean() + half, abs=0.05)


def test_the_jackknife_of_a_mean_by_single_rows_is_students_interval():
    values = np.random.default_rng(1).normal(3, 2, 40)
    masks = jackknife_masks(40, seed=0)
    assert masks.shape == (41, 40) and masks[0].all() and (masks[1:].sum(axis=0) == 39).all()
    low, high = jackknife_interval(values.mean(), np.array([values[mask].mean() for mask in masks[1:]]))
    expected = stats.t.interval(0.95, 39, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose((low, high), expected)


def test_the_grouped_jackknife_covers_a_mean_over_pairs():
    """The mean squared distance of pairs of normal numbers is 2 sigma^2; about 95% of intervals hold it."""

    def statistic(values):
        return 2 * values.var(ddof=1)

    covered = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(0, 1.5, 300)
        masks = jackknife_masks(300, seed, groups=30)
        low, high = jackknife_interval(statistic(values), np.array([statistic(values[mask]) for mask in masks[1:]]))
        covered += low <= 2 * 1.5**2 <= high
    assert 0.9 <= covered / 200 <= 0.985


def test_what_is_not_defined_has_no_interval():
    assert percentile_interval(np.full(5, np.nan)) is None
    assert jackknife_interval(1.0, np.array([1.0, np.nan])) is None
