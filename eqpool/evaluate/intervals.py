"""Scores of predictions, and 95% bootstrap intervals over subjects."""

from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score

Interval = tuple[float, float] | None  # None where the score is not defined


def bootstrap_interval(score: Callable[[np.ndarray], float], num_rows: int, bootstraps: int, seed: int) -> Interval:
    """The percentile interval of `score(rows)` over resampled row indices (num_rows,); undefined draws are skipped."""
    generator = np.random.default_rng(seed)
    draws = [score(generator.integers(0, num_rows, num_rows)) for _ in range(bootstraps)]
    return percentile_interval(np.asarray(draws))


def percentile_interval(draws: np.ndarray) -> Interval:
    """The 2.5th and 97.5th percentile of the draws (B,) that are finite."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return None
    low, high = np.quantile(finite, (0.025, 0.975))
    return float(low), float(high)


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall over the classes that occur in `truth`; chance is one over their number.

    scikit-learn's warns at every bootstrap draw that misses a class.
    """
    return float(np.mean([np.mean(predicted[truth == label] == label) for label in np.unique(truth)]))


def area_under_curve(truth: np.ndarray, score: np.ndarray) -> float:
    """max(AUC, 1 - AUC) of a score for label 1 against label 0; NaN where only one of them occurs."""
    if len(np.unique(truth)) < 2:
        return float("nan")
    area = roc_auc_score(truth, score)
    return float(max(area, 1 - area))
