"""Scores as functions of row weights, so that all draws of a bootstrap are computed at once. NumPy alone.

A score takes (B, N) weights of the rows, such as how often each draw has a row, and returns (B,) values. They are NaN
for a draw in which the score is not defined. Scores on the same rows are compared draw by draw.
"""

from collections.abc import Callable

import numpy as np

from eqpool.evaluate.intervals import Interval, bootstrap_draws, percentile_interval

Score = Callable[[np.ndarray], np.ndarray]


def bootstrap_weights(num_rows: int, bootstraps: int, seed: int, subject: np.ndarray | None = None) -> np.ndarray:
    """Returns (1 + B, N) weights: 1 for each row, then how often each of B draws of subjects has the row."""
    draws = bootstrap_draws(num_rows, bootstraps, seed, subject)
    counts = [np.bincount(rows, minlength=num_rows) for rows in draws]
    return np.stack([np.ones(num_rows), *counts])


def estimate(score: Score, weights: np.ndarray) -> tuple[float, Interval]:
    """Returns the value with the first weights, and the 95% interval over the others (see `bootstrap_weights`)."""
    values = score(weights)
    return float(values[0]), percentile_interval(values[1:]) if np.isfinite(values[0]) else None


def difference(score: Score, other: Score) -> Score:
    """Returns `score` less `other` on the same rows."""
    return lambda weights: score(weights) - other(weights)


def mean_of(values: np.ndarray) -> Score:
    """Returns the score that averages (N,) values. Rows with NaN do not count."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    return lambda weights: _ratio(weights @ filled, weights @ known.astype(np.float64))


def recall_of(truth: np.ndarray, predicted: np.ndarray) -> Score:
    """Returns the score that averages the recall over the labels that a draw has, which is the balanced accuracy.

    Args:
      truth: (N,) int labels. Rows with a label below 0 do not count.
      predicted: (N,) int labels.
    """
    member = (truth[:, None] == np.unique(truth[truth >= 0])[None]).astype(np.float64)
    found = member * (truth == predicted)[:, None]

    def score(weights: np.ndarray) -> np.ndarray:
        counts = weights @ member
        recall = np.where(counts > 0, _ratio(weights @ found, counts), 0.0)
        return _ratio(recall.sum(axis=1), (counts > 0).sum(axis=1))

    return score


def error_within_sites(error: np.ndarray, site: np.ndarray) -> Score:
    """Returns the score that averages |error - mean error of its site|.

    The errors of a prediction less their site's mean are what is left of the error once the site's means are removed
    from predictions and truth. A prediction gains nothing by knowing a site's mean, and loses nothing by missing it.

    Args:
      error: (N,) predicted value less true value. Rows with NaN do not count.
      site: (N,) int. Rows with a site below 0, or of a site with a single row, do not count.
    """
    used = np.isfinite(error) & (site >= 0)
    used &= np.isin(site, [one for one in np.unique(site[used]) if (site[used] == one).sum() > 1])
    names, number = np.unique(site[used], return_inverse=True)
    member, error = (number[:, None] == np.arange(len(names))[None]).astype(np.float64), error[used]

    def score(weights: np.ndarray) -> np.ndarray:
        own = weights[:, used]
        if not own.shape[1]:
            return np.full(len(weights), np.nan)
        counts = own @ member
        means = np.where(counts > 0, _ratio(own @ (member * error[:, None]), counts), 0.0)
        left = np.abs(error[None] - means[:, number])
        return _ratio((own * left).sum(axis=1), own.sum(axis=1))

    return score


def correlation_of_pairs(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> Score:
    """Returns the score that computes Pearson's correlation of two variables of pairs of rows (Mantel's statistic).

    A pair weighs as much as the product of its rows' weights. It is NaN if a variable is constant.

    Args:
      first, second: (N, N) symmetric values of the pairs, such as distances.
      counts: (N, N) bool, symmetric, which pairs count. The diagonal does not, so that no draw of a bootstrap pairs a
        row with its own copy.
    """
    member = counts.astype(np.float64)
    total = max(member.sum(), 1.0)
    # About their means, as both squares and products lose digits to a common offset.
    left, right = (np.where(counts, values - (values * member).sum() / total, 0.0) for values in (first, second))

    def score(weights: np.ndarray) -> np.ndarray:
        def mean(values: np.ndarray) -> np.ndarray:
            return _ratio(((weights @ values) * weights).sum(axis=1), ((weights @ member) * weights).sum(axis=1))

        means = mean(left), mean(right)
        variances = [mean(values**2) - own**2 for values, own in zip((left, right), means, strict=True)]
        covariance = mean(left * right) - means[0] * means[1]
        return _ratio(covariance, np.sqrt(np.maximum(variances[0] * variances[1], 0)))

    return score


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides, with NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
