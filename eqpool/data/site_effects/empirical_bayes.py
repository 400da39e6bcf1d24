"""Shrinks one site's means and variances of features towards their distribution over features (Johnson et al. 2007)."""

import numpy as np

_TOLERANCE = 1e-8  # relative change of the estimates at which the iteration stops
_MOST_ITERATIONS = 10_000


def shrunk_means(means: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Returns the posterior of (F,) site means whose rows have unit variance."""
    prior_mean, prior_variance = means.mean(), means.var(ddof=1) if means.size > 1 else 0.0
    return (information * prior_variance * means + prior_mean) / (information * prior_variance + 1)


def posterior(
    means: np.ndarray, variances: np.ndarray, information: np.ndarray, freedom: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the posterior means and variances (F,) of one site, given its sample means and variances (F,).

    The prior of the mean is normal, that of the variance inverse gamma. Their parameters come from the moments over
    features.

    Args:
      means, variances: (F,) sample means and variances.
      information: (F,) rows of unit variance that the means are worth.
      freedom: (F,) degrees of freedom of the variances.
    """
    if not _varies(variances):
        return means, np.where(variances > 0, variances, 1)
    prior_mean, prior_variance = means.mean(), means.var(ddof=1)
    location, squared = means, variances
    for _ in range(_MOST_ITERATIONS):
        moved = (information * prior_variance * means + squared * prior_mean) / (information * prior_variance + squared)
        varied = shrunk_variances(variances, freedom, information * (means - moved) ** 2)
        change = max(np.abs(moved - location).max(), np.abs(varied / squared - 1).max() if squared.all() else 1.0)
        location, squared = moved, varied
        if change < _TOLERANCE:
            break
    return location, squared


def shrunk_variances(variances: np.ndarray, freedom: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Returns the posterior of (F,) variances, to whose squares `moved` adds those of the shrinkage of the means."""
    if not _varies(variances):
        return np.where(variances > 0, variances, 1)
    average, spread = variances.mean(), variances.var(ddof=1)
    shape, rate = (2 * spread + average**2) / spread, (average * spread + average**3) / spread
    return ((freedom * variances + moved) / 2 + rate) / ((freedom + 1) / 2 + shape - 1)


def _varies(variances: np.ndarray) -> bool:
    """Returns whether features show a distribution to shrink to, which a single one does not."""
    return bool(variances.size > 1 and variances.var(ddof=1) > 0)
