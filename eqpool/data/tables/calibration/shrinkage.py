"""Computes the empirical Bayes priors and posteriors of sites' shifts and variances, in float64.

The effects of the known sites are draws from a normal distribution whose mean and variances are estimated from them. An
estimate is shrunk towards that distribution by its own sampling error, so that one row of a new site moves little and
hundreds of rows move freely.
"""

import dataclasses
from typing import Any

import numpy as np

_GRID = np.concatenate([[0.0], np.logspace(-5, 2, 57)])  # variances that a prior may have
_FEATURE_SITES = 5.0  # sites that a feature's own between-site variance has to outweigh, beside the features' mean
_CORRELATION_SITES = 10.0  # the same for the correlation of the features' shifts
_SMALLEST_VARIANCE = 1e-4  # of a site, over the pooled variance
_LONE_SHIFT, _LONE_LOG_VARIANCE = 0.1, 0.05  # variances of the prior if a single site shows none


@dataclasses.dataclass(frozen=True)
class VariancePrior:
    """The distribution of sites' log variances, of features or of directions.

    Attributes:
      centre: (F,) float64 mean over sites.
      scalar: variance of a site's mean log variance over columns.
      single: (F,) float64 variances of the log variance of one feature or direction beside the site's mean.
      overlap: mean squared correlation of two columns, the share of a log variance's error that all columns have.
    """

    centre: np.ndarray
    scalar: float
    single: np.ndarray
    overlap: float

    @classmethod
    def fit(cls, log_variances: np.ndarray, rows: np.ndarray, residuals: np.ndarray) -> "VariancePrior":
        """Estimates the distribution by restricted maximum likelihood.

        Args:
          log_variances: (K, F) log of each site's variance over the pooled variance.
          rows: (K,) numbers of independent rows.
          residuals: (N, F) residuals of all rows beside their site.
        """
        overlap, features = _overlap(residuals), log_variances.shape[1]
        logs, errors = log_variances[rows >= 2], 2 / (rows[rows >= 2, None] - 1)
        if len(logs) < 2:
            return cls(np.zeros(features), _LONE_LOG_VARIANCE, np.full(features, _LONE_LOG_VARIANCE), overlap)
        means = logs.mean(axis=1, keepdims=True)
        scalar = _likeliest_variances(means, errors * overlap)
        single = feature_variances(logs - means, errors * (1 - overlap))
        centre = _weighted_mean(means, scalar, errors * overlap)
        centre = centre + _weighted_mean(logs - means, single, errors * (1 - overlap))
        return cls(centre, float(scalar[0]), single, overlap)

    def shrink(self, log_variance: np.ndarray, rows: float) -> np.ndarray:
        """Returns the (F,) posterior mean of log variances, of their mean and of what each has beside it.

        `rows` is the number of independent rows of the estimate. Fewer than two show no variance.
        """
        if rows < 2:
            return np.zeros_like(log_variance)
        error, apart = 2 / (rows - 1), log_variance - self.centre
        common = apart.mean() * _share(self.scalar, error * self.overlap)
        return self.centre + common + (apart - apart.mean()) * _share(self.single, error * (1 - self.overlap))


@dataclasses.dataclass(frozen=True)
class ShiftPrior:
    """The distribution of sites' shifts.

    Attributes:
      centre: (F,) float64 mean over sites.
      covariance: (F, F) float64 covariance over sites.
    """

    centre: np.ndarray
    covariance: np.ndarray

    @classmethod
    def fit(cls, shifts: np.ndarray, errors: np.ndarray) -> "ShiftPrior":
        """Estimates the distribution by restricted maximum likelihood.

        Args:
          shifts: (K, F) estimated shifts.
          errors: (K, F) their sampling variances.
        """
        sites, features = shifts.shape
        if sites < 2:
            return cls(np.zeros(features), _LONE_SHIFT * np.eye(features))
        variances = feature_variances(shifts, errors)
        centre = _weighted_mean(shifts, variances, errors)
        directions = (shifts - centre) / (np.sqrt(np.sum((shifts - centre) ** 2, axis=0)) + 1e-300)
        weight = sites / (sites + _CORRELATION_SITES)
        correlation = weight * directions.T @ directions + (1 - weight) * np.eye(features)
        return cls(centre, correlation * np.sqrt(np.outer(variances, variances)))

    def shrink(self, shift: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Returns the (F,) posterior mean of a shift whose sampling error has the (F, F) covariance `error`."""
        variances = np.diag(self.covariance)
        return self.centre + (shift - self.centre) * _share(variances, np.diag(error))

    def shrink_jointly(self, shift: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Returns the (F,) posterior mean of a new site's shift, in which features inform each other.

        This is for sites that the prior was not estimated from. For the others, the correlations of the prior are those
        of their own errors too.
        """
        return self.centre + self.covariance @ np.linalg.solve(self.covariance + error, shift - self.centre)


def log_variances(residuals: np.ndarray, number: np.ndarray, sites: int) -> np.ndarray:
    """Returns the (K, F) logs of sites' variances, their weighted mean over sites 0, and 0 for a site of one row.

    `residuals` are (N, F), with mean 0 in each site, and `number` are the (N,) sites.
    """
    counts = np.bincount(number, minlength=sites)
    sums = np.stack([np.sum(residuals[number == index] ** 2, axis=0) for index in range(sites)])
    pooled = np.maximum(sums.sum(axis=0) / max(len(residuals) - sites, 1), 1e-12)
    logs = log_ratio(sums / np.maximum(counts - 1, 1)[:, None], pooled, np.maximum(counts - 1, 1)[:, None])
    return centred_over_sites(logs, np.where(counts > 1, counts, 0))


def log_ratio(variance: np.ndarray, pooled: np.ndarray, freedom: np.ndarray | float) -> np.ndarray:
    """Returns the log of a variance over another one, without the bias of the log of a chi-squared variable."""
    return np.log(np.maximum(variance / pooled, _SMALLEST_VARIANCE)) + 1 / freedom


def centred_over_sites(logs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Subtracts the weighted mean over sites from (K, F) logs. Entries of weight 0, of a site or (K, F), become 0."""
    weights = np.broadcast_to(weights[:, None] if weights.ndim == 1 else weights, logs.shape)
    mean = np.sum(weights * logs, axis=0) / np.maximum(weights.sum(axis=0), 1e-12)
    return np.where(weights > 0, logs - mean, 0.0)


def feature_variances(effects: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Returns the (F,) variances of (K, F) effects beside their sampling error, shrunk to what the features share."""
    errors = np.broadcast_to(errors, effects.shape)
    weight = len(effects) / (len(effects) + _FEATURE_SITES)
    return weight * _likeliest_variances(effects, errors) + (1 - weight) * _likeliest_variance(effects, errors)


def _share(variance: Any, error: Any) -> Any:
    return variance / (variance + error + 1e-300)


def _weighted_mean(effects: np.ndarray, variances: np.ndarray, errors: np.ndarray) -> np.ndarray:
    weights = 1 / (variances + np.broadcast_to(errors, effects.shape) + 1e-12)
    return np.sum(weights * effects, axis=0) / weights.sum(axis=0)


def _likelihoods(effects: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Returns the (V, F) restricted log likelihoods of (K, F) effects for each variance of the grid.

    Effects are normal about an unknown mean of their column (DerSimonian and Kacker 2007 compare the estimators).
    """
    weights = 1 / (_GRID[:, None, None] + errors + 1e-12)
    total = weights.sum(axis=1, keepdims=True)
    apart = effects - np.sum(weights * effects, axis=1, keepdims=True) / total
    return 0.5 * (np.sum(np.log(weights) - weights * apart**2, axis=1) - np.log(total[:, 0]))


def _likeliest_variances(effects: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Returns the (F,) likeliest variances, one for each column of (K, F) effects."""
    return _GRID[np.argmax(_likelihoods(effects, errors), axis=0)]


def _likeliest_variance(effects: np.ndarray, errors: np.ndarray) -> float:
    """Returns the likeliest variance that all columns share."""
    return float(_GRID[np.argmax(_likelihoods(effects, errors).sum(axis=1))])


def _overlap(residuals: np.ndarray) -> float:
    """Returns the mean squared correlation of two columns, of a column with itself included."""
    varies = residuals.std(axis=0) > 1e-9
    return float(np.mean(np.corrcoef(residuals[:, varies].T) ** 2)) if varies.sum() > 1 else 1.0
