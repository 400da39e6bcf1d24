"""Scores of predictions, and 95% intervals over subjects: bootstrap for means, jackknife for means over pairs."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import t as student_t
from sklearn.metrics import roc_auc_score

Interval = tuple[float, float] | None  # None where the score is not defined


def bootstrap_interval(
    score: Callable[[np.ndarray], float],
    num_rows: int,
    bootstraps: int,
    seed: int,
    subject: np.ndarray | None = None,
) -> Interval:
    """The percentile interval of `score(rows)` over resampled subjects; undefined draws are skipped.

    None where there are no rows, or no draw is defined.

    Args:
      score: of row indices, in which a row stands as often as its subject was drawn.
      num_rows: how many rows there are.
      bootstraps: draws.
      seed: of the draws.
      subject: (num_rows,) whose each row is; None: each is of its own.
    """
    if num_rows == 0:
        return None
    return percentile_interval(
        np.asarray([score(rows) for rows in bootstrap_draws(num_rows, bootstraps, seed, subject)])
    )


def bootstrap_draws(
    num_rows: int, bootstraps: int, seed: int, subject: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """The row indices of each draw of `bootstrap_interval`, whose arguments it takes."""
    generator = np.random.default_rng(seed)
    of_row = _subject_of_row(num_rows, subject)
    by_subject, count = np.argsort(of_row, kind="stable"), np.bincount(of_row)
    rows = np.split(by_subject, np.cumsum(count)[:-1])
    for _ in range(bootstraps):
        drawn = generator.integers(0, len(count), len(count))
        yield drawn if len(count) == num_rows else np.concatenate([rows[one] for one in drawn])


def number_subjects(subject: np.ndarray) -> np.ndarray | None:
    """(N,) subjects as numbers from 0; None where each row is of another one, so that rows may pass for subjects."""
    people, of_row = np.unique(subject, return_inverse=True)
    return None if len(people) == len(subject) else of_row


def _subject_of_row(num_rows: int, subject: np.ndarray | None) -> np.ndarray:
    """(num_rows,) subjects as numbers from 0; the rows' own where each is of another subject."""
    numbers = None if subject is None else number_subjects(subject)
    return np.arange(num_rows) if numbers is None else numbers


def percentile_interval(draws: np.ndarray) -> Interval:
    """The 2.5th and 97.5th percentile of the draws (B,) that are finite."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return None
    low, high = np.quantile(finite, (0.025, 0.975))
    return float(low), float(high)


def jackknife_masks(num_rows: int, seed: int, groups: int = 50, subject: np.ndarray | None = None) -> np.ndarray:
    """(1 + G, num_rows) bool: all rows, then all rows but one random group of subjects, for each of G groups at most.

    `subject` (num_rows,) says whose each row is; None: each is of its own.
    """
    of_row = _subject_of_row(num_rows, subject)
    subjects = int(of_row.max(initial=-1)) + 1
    groups = min(groups, subjects)
    group = (np.random.default_rng(seed).permutation(subjects) % groups)[of_row]
    return np.concatenate([np.ones((1, num_rows), bool), group[None] != np.arange(groups)[:, None]])


def jackknife_interval(whole: float, without_group: np.ndarray) -> Interval:
    """95%, by the grouped jackknife: t times the standard error from the estimates (G,) that leave one group out."""
    groups = len(without_group)
    if groups < 2 or not np.isfinite(whole) or not np.isfinite(without_group).all():
        return None
    spread = np.sqrt((groups - 1) * np.mean((without_group - without_group.mean()) ** 2))
    half = float(student_t.ppf(0.975, groups - 1) * spread)
    return whole - half, whole + half


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall over the classes that occur in `truth`; chance is one over their number. NaN where there are no rows.

    scikit-learn's warns at every bootstrap draw that misses a class.
    """
    if not len(truth):
        return float("nan")
    return float(np.mean([np.mean(predicted[truth == label] == label) for label in np.unique(truth)]))


def area_under_curve(truth: np.ndarray, score: np.ndarray) -> float:
    """max(AUC, 1 - AUC) of a score for label 1 against label 0; NaN where only one of them occurs or a score is NaN."""
    if len(np.unique(truth)) < 2 or not np.isfinite(score).all():
        return float("nan")
    area = roc_auc_score(truth, score)
    return float(max(area, 1 - area))
