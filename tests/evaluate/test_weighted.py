"""Weighted scores equal the plain scores of repeated rows, and errors within sites are worked by hand."""

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import balanced_accuracy_score

from eqpool.evaluate.intervals import bootstrap_interval
from eqpool.evaluate.weighted import (
    bootstrap_weights,
    correlation_of_pairs,
    difference,
    error_within_sites,
    estimate,
    mean_of,
    recall_of,
)


def ones(count: int) -> np.ndarray:
    return np.ones((1, count))


def test_errors_within_sites_by_hand():
    """Site 0 errs by 1, 2, 6 (mean 3: 2, 1, 3 are left), site 1 by 10, 20 (5, 5), site 2 has one row."""
    error = np.array([1.0, 2.0, 6.0, 10.0, 20.0, 99.0])
    site = np.array([0, 0, 0, 1, 1, 2])
    assert error_within_sites(error, site)(ones(6))[0] == pytest.approx((2 + 1 + 3 + 5 + 5) / 5)
    site[0] = -1  # unknown: 2 and 6 are left, with mean 4
    assert error_within_sites(error, site)(ones(6))[0] == pytest.approx((2 + 2 + 5 + 5) / 4)
    error[1] = np.nan  # site 0 has a single row left
    assert error_within_sites(error, site)(ones(6))[0] == pytest.approx(5)
    assert np.isnan(error_within_sites(error, np.arange(6))(ones(6))[0])


def test_a_prediction_gains_nothing_within_sites_by_knowing_their_means():
    generator = np.random.default_rng(0)
    site, age = np.repeat([0, 1], 500), generator.normal(0, 3, 1000) + np.repeat([30.0, 70.0], 500)
    of_site = np.array([30.0, 70.0])[site] - age  # error of predicting the site's mean age
    of_constant = 50.0 - age
    assert mean_of(np.abs(of_site))(ones(1000))[0] < 3 < 15 < mean_of(np.abs(of_constant))(ones(1000))[0]
    within = [error_within_sites(error, site)(ones(1000))[0] for error in (of_site, of_constant)]
    assert within[0] == pytest.approx(within[1])


def test_recall_equals_scikit_learn_and_leaves_rows_without_a_site_out():
    generator = np.random.default_rng(1)
    truth, predicted = generator.integers(0, 3, (2, 200))
    assert recall_of(truth, predicted)(ones(200))[0] == pytest.approx(balanced_accuracy_score(truth, predicted))
    known = np.where(np.arange(200) % 4, truth, -1)
    expected = balanced_accuracy_score(truth[known >= 0], predicted[known >= 0])
    assert recall_of(known, predicted)(ones(200))[0] == pytest.approx(expected)


@pytest.mark.parametrize("repeated", [False, True])
def test_intervals_equal_those_of_the_row_by_row_bootstrap(repeated):
    generator = np.random.default_rng(2)
    subject = np.arange(80) // 2 if repeated else np.arange(80)
    truth, predicted = generator.integers(0, 3, (2, 80))
    error = generator.normal(size=80)
    weights = bootstrap_weights(80, 60, 5, subject)
    plain = {
        recall_of(truth, predicted): lambda rows: np.mean(
            [np.mean(predicted[rows][truth[rows] == one] == one) for one in np.unique(truth[rows])]
        ),
        mean_of(np.abs(error)): lambda rows: np.abs(error[rows]).mean(),
        error_within_sites(error, truth): lambda rows: np.abs(
            error[rows] - np.array([error[rows][truth[rows] == one].mean() for one in truth[rows]])
        ).mean(),
    }
    for score, by_rows in plain.items():
        value, interval = estimate(score, weights)
        assert value == pytest.approx(by_rows(np.arange(80)))
        assert interval == pytest.approx(bootstrap_interval(by_rows, 80, 60, 5, subject))


def test_a_difference_is_taken_draw_by_draw():
    """Two scores that vary widely over draws, and differ by the same amount in each."""
    values = np.random.default_rng(3).normal(size=50)
    weights = bootstrap_weights(50, 100, 0)
    value, interval = estimate(difference(mean_of(values + 0.25), mean_of(values)), weights)
    assert value == pytest.approx(0.25) and interval == pytest.approx((0.25, 0.25))


def test_a_score_without_rows_is_not_defined():
    value, interval = estimate(mean_of(np.full(4, np.nan)), bootstrap_weights(4, 3, 0))
    assert np.isnan(value) and interval is None


def test_a_correlation_of_pairs_is_that_of_the_drawn_rows_pairs():
    """Row 2 is drawn twice and row 4 not at all; a row is no pair with its copy."""
    generator = np.random.default_rng(9)
    first, second = (np.triu(values, 1) + np.triu(values, 1).T for values in 1e4 + generator.normal(size=(2, 6, 6)))
    counts = ~np.eye(6, dtype=bool)
    counts[0, 1] = counts[1, 0] = False
    weights = np.array([[1.0, 1, 1, 1, 1, 1], [1, 1, 2, 1, 0, 1]])
    found = correlation_of_pairs(first, second, counts)(weights)
    for drawn, value in zip(([0, 1, 2, 3, 4, 5], [0, 1, 2, 2, 3, 5]), found, strict=True):
        pairs = [(a, b) for place, a in enumerate(drawn) for b in drawn[place + 1 :] if counts[a, b]]
        expected = pearsonr([first[pair] for pair in pairs], [second[pair] for pair in pairs]).statistic
        assert value == pytest.approx(expected, abs=1e-9)
    constant = np.where(counts, 3.0, 0.0)
    assert np.isnan(correlation_of_pairs(constant, second, counts)(weights)).all()
    assert np.isnan(correlation_of_pairs(first, second, np.zeros((6, 6), bool))(weights)).all()
