"""Intervals cover what they should: against the textbook formula for a mean, and by simulation for pairs."""

import numpy as np
import pytest
from scipy import stats

from eqpool.evaluate.intervals import (
    area_under_curve,
    balanced_accuracy,
    bootstrap_interval,
    jackknife_interval,
    jackknife_masks,
    percentile_interval,
)


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


def visits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One to four visits of 50 people, who differ more from each other than their visits do; the true mean is 1."""
    random = np.random.default_rng(seed)
    subject = np.repeat(np.arange(50), random.integers(1, 5, 50))
    values = 1 + random.normal(size=50)[subject] + 0.2 * random.normal(size=len(subject))
    order = random.permutation(len(subject))
    return values[order], np.array([f"sub-{one}" for one in subject])[order]


def test_intervals_are_over_people_and_not_over_their_visits():
    covered = np.zeros(3)
    for seed in range(150):
        values, subject = visits(seed)

        def mean(rows, values=values):
            return values[rows].mean()

        masks = jackknife_masks(len(values), seed, subject=subject)
        jackknifed = jackknife_interval(values.mean(), np.array([values[mask].mean() for mask in masks[1:]]))
        intervals = (
            bootstrap_interval(mean, len(values), 300, seed, subject),
            jackknifed,
            bootstrap_interval(mean, len(values), 300, seed),
        )
        covered += [low <= 1 <= high for low, high in intervals]
    assert (covered[:2] > 0.88 * 150).all() and covered[2] < 0.85 * 150  # the last takes visits for people


def test_a_jackknife_leaves_out_whole_people():
    _, subject = visits(0)
    masks = jackknife_masks(len(subject), 0, groups=10, subject=subject)
    assert len(masks) == 11 and masks[0].all() and (~masks[1:]).sum(axis=0).tolist() == [1] * len(subject)
    for mask in masks[1:]:
        assert not set(subject[mask]) & set(subject[~mask])


def test_what_is_not_defined_has_no_interval():
    assert percentile_interval(np.full(5, np.nan)) is None
    assert jackknife_interval(1.0, np.array([1.0, np.nan])) is None


def test_no_rows_and_scores_that_are_not_finite_have_no_interval():
    assert bootstrap_interval(lambda rows: 1.0, 0, 5, 0) is None
    assert bootstrap_interval(lambda rows: np.nan, 4, 5, 0) is None
    assert jackknife_interval(np.nan, np.ones(5)) is None and jackknife_interval(1.0, np.array([1, np.nan])) is None
    assert np.isnan(balanced_accuracy(np.zeros(0), np.zeros(0)))
    assert np.isnan(area_under_curve(np.array([0, 1]), np.array([0.5, np.nan])))
