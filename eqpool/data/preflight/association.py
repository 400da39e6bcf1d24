"""Measures of association between sites, covariates and target for the pre-flight check, in float64."""

import math

import numpy as np


def eta_squared(values: np.ndarray, group: np.ndarray) -> float:
    """Returns the share of the variance of `values` that group means explain (R^2 of a one-way analysis of variance).

    Args:
      values: (N,) numbers. Rows with NaN are ignored.
      group: (N,) integers. Rows with a negative one are ignored.

    Returns:
      A number in [0, 1], or NaN if fewer than two rows or no variance are left.
    """
    known = np.isfinite(values) & (group >= 0)
    values, group = values[known].astype(np.float64), group[known]
    total = float(np.sum((values - values.mean()) ** 2)) if values.size > 1 else 0.0
    if total == 0:
        return float("nan")
    within = sum(float(np.sum((values[group == g] - values[group == g].mean()) ** 2)) for g in np.unique(group))
    return 1 - within / total


def contingency(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Counts pairs of two (N,) integer labels, (levels of first, levels of second). Negative labels are ignored."""
    known = (first >= 0) & (second >= 0)
    rows, row_index = np.unique(first[known], return_inverse=True)
    columns, column_index = np.unique(second[known], return_inverse=True)
    counts = np.zeros((len(rows), len(columns)), np.int64)
    np.add.at(counts, (row_index, column_index), 1)
    return counts


def cramers_v(first: np.ndarray, second: np.ndarray) -> float:
    """Returns Cramer's V of two (N,) integer labels: sqrt(chi^2 / (N (min(rows, columns) - 1))), without a correction.

    Returns:
      A number in [0, 1], or NaN if one of the labels has fewer than two levels.
    """
    counts = contingency(first, second)
    if min(counts.shape) < 2:
        return float("nan")
    # By hand, because scipy.stats takes as long to import as the rest of the pre-flight check.
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    chi_squared = float(np.sum((counts - expected) ** 2 / expected))
    return math.sqrt(chi_squared / counts.sum() / (min(counts.shape) - 1))


def decided_by(label: np.ndarray, group: np.ndarray) -> bool:
    """Returns whether each `group` (N,) holds at most one level of `label` (N,), while both vary."""
    counts = contingency(group, label)
    return bool(min(counts.shape, default=0) > 1 and np.all(np.sum(counts > 0, axis=1) == 1))


def condition_number(columns: np.ndarray) -> float:
    """Returns the ratio of the extreme singular values of (N, P) columns scaled to length 1 (Belsley 1980)."""
    lengths = np.linalg.norm(columns, axis=0)
    values = np.linalg.svd(columns / np.where(lengths > 0, lengths, 1), compute_uv=False)
    smallest = values[-1] if len(values) == columns.shape[1] else 0.0
    return float(values[0] / smallest) if smallest > 1e-12 * values[0] else float("inf")


def site_design(site: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    """Returns (N, S + C) float64: a 0-1 column for each site present, then the standardised covariates."""
    sites = (site[:, None] == np.unique(site)[None]).astype(np.float64)
    centred = covariates - covariates.mean(axis=0)
    deviation = centred.std(axis=0)
    return np.concatenate([sites, centred / np.where(deviation > 0, deviation, 1)], axis=1)


def support(values: np.ndarray) -> tuple[float, float]:
    """Returns the 5th and 95th percentiles, the range of a group without outliers."""
    low, high = np.percentile(values, [5, 95])
    return float(low), float(high)


def overlap(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Returns the common part of two intervals as a share of the shorter: 0 if they are apart, 1 for a point inside."""
    common = min(first[1], second[1]) - max(first[0], second[0])
    shorter = min(first[1] - first[0], second[1] - second[0])
    if common < 0:
        return 0.0
    return 1.0 if shorter == 0 else common / shorter
