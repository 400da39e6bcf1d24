"""Scores of predictions, and their 95% intervals over subjects.

Means use the bootstrap, and means over pairs use the jackknife.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import t as student_t
from sklearn.metrics import roc_auc_score

Interval = tuple[float, float] | None  # None if the score is not defined


def bootstrap_interval(
    score: Callable[[np.ndarray], float],
    num_rows: int,
    bootstraps: int,
    seed: int,
    subject: np.ndarray | None = None,
) -> Interval:
    """Computes the percentile interval of `score(rows)` over resampled subjects.

    Draws with a score that is not finite are skipped.

    Args:
      score: function of row indices, in which a row occurs as often as its subject was drawn.
      num_rows: number of rows.
      bootstraps: number of draws.
      seed: seed of the draws.
      subject: (num_rows,), subject of each row. `None` treats every row as a separate subject.

    Returns:
      The 95% interval, or None if there are no rows or no draw has a finite score.
    """
    if num_rows == 0:
        return None
    return percentile_interval(
        np.asarray([score(rows) for rows in bootstrap_draws(num_rows, bootstraps, seed, subject)])
    )


def bootstrap_draws(
    num_rows: int, bootstraps: int, seed: int, subject: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yields the row indices of each draw of `bootstrap_interval`. The arguments are the same."""
    generator = np.random.default_rng(seed)
    of_row = _subject_of_row(num_rows, subject)
    by_subject, count = np.argsort(of_row, kind="stable"), np.bincount(of_row)
    rows = np.split(by_subject, np.cumsum(count)[:-1])
    for _ in range(bootstraps):
        drawn = generator.integers(0, len(count), len(count))
        yield drawn if len(count) == num_rows else np.concatenate([rows[one] for one in drawn])


def number_subjects(subject: np.ndarray) -> np.ndarray | None:
    """Numbers the subjects (N,) from 0.

    Returns:
      The number of each row's subject, (N,) int, or None if every row belongs to a different subject.
    """
    people, of_row = np.unique(subject, return_inverse=True)
    return None if len(people) == len(subject) else of_row


def _subject_of_row(num_rows: int, subject: np.ndarray | None) -> np.ndarray:
    """Returns the number of each row's subject, (num_rows,) int, which is the row's index if no subject repeats."""
    numbers = None if subject is None else number_subjects(subject)
    return np.arange(num_rows) if numbers is None else numbers


def percentile_interval(draws: np.ndarray) -> Interval:
    """Computes the 2.5th and 97.5th percentiles of the finite draws among (B,), or None if there are none."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return None
    low, high = np.quantile(finite, (0.025, 0.975))
    return float(low), float(high)


def jackknife_masks(num_rows: int, seed: int, groups: int = 50, subject: np.ndarray | None = None) -> np.ndarray:
    """Returns masks (1 + G, num_rows) for the grouped jackknife, with G <= `groups` random groups of subjects.

    The first mask keeps all rows. Each of the others leaves out one group. `subject` (num_rows,) is the subject of each
    row, and `None` treats every row as a separate subject.
    """
    of_row = _subject_of_row(num_rows, subject)
    subjects = int(of_row.max(initial=-1)) + 1
    groups = min(groups, subjects)
    group = (np.random.default_rng(seed).permutation(subjects) % groups)[of_row]
    return np.concatenate([np.ones((1, num_rows), bool), group[None] != np.arange(groups)[:, None]])


def jackknife_interval(whole: float, without_group: np.ndarray) -> Interval:
    """Computes the 95% interval by the grouped jackknife, `whole` plus and minus t times the standard error.

    Args:
      whole: estimate from all rows.
      without_group: (G,), estimates that each leave out one group.

    Returns:
      The interval, or None if there are fewer than two groups or an estimate is not finite.
    """
    groups = len(without_group)
    if groups < 2 or not np.isfinite(whole) or not np.isfinite(without_group).all():
        return None
    spread = np.sqrt((groups - 1) * np.mean((without_group - without_group.mean()) ** 2))
    half = float(student_t.ppf(0.975, groups - 1) * spread)
    return whole - half, whole + half


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Computes the mean recall over the classes in `truth`; NaN without rows. Chance is one over their number.

    scikit-learn's function would warn at every bootstrap draw that misses a class.
    """
    if not len(truth):
        return float("nan")
    return float(np.mean([np.mean(predicted[truth == label] == label) for label in np.unique(truth)]))


def chance_level(labels: np.ndarray) -> float:
    """Returns the balanced accuracy of a guess, which is one over the number of labels that occur."""
    return 1 / max(1, len(np.unique(labels)))


def area_under_curve(truth: np.ndarray, score: np.ndarray) -> float:
    """Computes max(AUC, 1 - AUC) of a score for label 1 against 0; NaN if only one occurs, or a score is NaN."""
    if len(np.unique(truth)) < 2 or not np.isfinite(score).all():
        return float("nan")
    area = roc_auc_score(truth, score)
    return float(max(area, 1 - area))
