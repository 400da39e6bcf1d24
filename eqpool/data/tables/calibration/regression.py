"""Regresses features on covariates, target and sites, with a random effect of the person, in float64."""

import dataclasses

import numpy as np

_LARGEST_CORRELATION = 0.99


@dataclasses.dataclass(frozen=True)
class SiteFit:
    """The regression of features on terms and sites.

    Attributes:
      effects: (P, F) coefficients of the terms.
      means: (K, F) constants of the sites.
      errors: (K,) sampling variances of the constants' differences from their mean, in units of the variance of a row.
      rows: (K,) numbers of independent rows.
      correlation: correlation of two rows of one person, 0 if nobody has two.
    """

    effects: np.ndarray
    means: np.ndarray
    errors: np.ndarray
    rows: np.ndarray
    correlation: float


def fit_sites(terms: np.ndarray, number: np.ndarray, person: np.ndarray, inputs: np.ndarray) -> SiteFit:
    """Fits inputs = terms @ effects + means[site] + person + error by generalised least squares.

    The random effect of the person has one intraclass correlation for all features, from an analysis of variance of the
    residuals. The share theta of a person's mean is subtracted as in Swamy and Arora (1972), so that people scanned at
    two sites count by their differences, and repeated rows do not count as independent.

    Args:
      terms: (N, P) columns.
      number: (N,) sites, 0 to K - 1.
      person: (N,) codes of the persons, 0 to M - 1.
      inputs: (N, F) features.
    """
    sites = (number[:, None] == np.arange(number.max() + 1)).astype(np.float64)
    design = np.concatenate([terms, sites], axis=1)
    counts = np.bincount(person)
    correlation = 0.0
    coefficients = np.linalg.lstsq(design, inputs, rcond=None)[0]
    if counts.max() > 1:
        for _ in range(2):
            correlation = _correlation(inputs - design @ coefficients, person, counts)
            theta = (1 - np.sqrt((1 - correlation) / (1 + (counts - 1) * correlation)))[person][:, None]
            coefficients = np.linalg.lstsq(
                _demeaned(design, person, counts, theta), _demeaned(inputs, person, counts, theta), rcond=None
            )[0]
        design = _demeaned(design, person, counts, theta)
    split = terms.shape[1]
    errors = _errors(design, split, np.bincount(number), 1 - correlation)
    return SiteFit(
        coefficients[:split], coefficients[split:], errors, _independent(number, person, correlation), correlation
    )


def _errors(design: np.ndarray, split: int, rows: np.ndarray, unexplained: float) -> np.ndarray:
    """Returns the sampling variances of the sites' constants about their mean over rows."""
    covariance = np.linalg.pinv(design.T @ design)[split:, split:] * unexplained
    contrast = np.eye(len(rows)) - rows / rows.sum()
    return np.maximum(np.diag(contrast @ covariance @ contrast.T), 1e-12)


def _correlation(residuals: np.ndarray, person: np.ndarray, counts: np.ndarray) -> float:
    """Returns the intraclass correlation of repeated rows, from sums of squares over all features."""
    means = _person_means(residuals, person, counts)
    within = np.sum((residuals - means[person]) ** 2) / max(np.sum(counts - 1), 1)
    repeated = counts > 1
    between = np.sum(counts[repeated, None] * means[repeated] ** 2) / repeated.sum()
    typical = counts[repeated].mean()
    value = (between - within) / (between + (typical - 1) * within + 1e-300)
    return float(np.clip(value, 0.0, _LARGEST_CORRELATION))


def _person_means(values: np.ndarray, person: np.ndarray, counts: np.ndarray) -> np.ndarray:
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, person, values)
    return sums / np.maximum(counts, 1)[:, None]


def _demeaned(values: np.ndarray, person: np.ndarray, counts: np.ndarray, theta: np.ndarray) -> np.ndarray:
    return values - theta * _person_means(values, person, counts)[person]


def _independent(number: np.ndarray, person: np.ndarray, correlation: float) -> np.ndarray:
    """Returns each site's number of independent rows, where n rows of a person are n / (1 + (n - 1) correlation)."""
    rows = np.zeros(number.max() + 1)
    pairs, counts = np.unique(np.stack([number, person]), axis=1, return_counts=True)
    np.add.at(rows, pairs[0], counts / (1 + (counts - 1) * correlation))
    return rows
