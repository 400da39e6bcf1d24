"""Estimates the covariance that a site has of its own, as far as held-out rows support it, in float64.

A site's covariance, whitened by the pooled one, is estimated in two steps. The first gives each principal direction of
the pooled covariance a variance of its own, shrunk by empirical Bayes (F numbers a site). The second turns directions
as well (F^2 / 2 numbers a site), shrunk to the first as if `prior_rows` further rows had shown the first alone.
"""

import dataclasses

import numpy as np

from eqpool.data.tables.calibration.shrinkage import VariancePrior, log_variances

PRIORS_A_FEATURE = (0.6, 1.2, 2.4, 4.0, 8.0, 16.0, 32.0, np.inf)  # strengths that "auto" tries, in rows a feature
PRIOR_ROWS_A_FEATURE = 1.2  # strength of "covariance"
_DIAGONAL_SHARE = 0.05  # weight of the diagonal in the pooled covariance, which makes it invertible
_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class CovarianceChoice:
    """How far sites have covariances of their own.

    Attributes:
      directions: whether each principal direction has a variance of its own.
      prior_rows: number of rows without turned directions that a site's covariance is averaged with.
      gains: mean gain in held-out log likelihood per row over the shared covariance, by choice. Empty unless chosen.
    """

    directions: bool
    prior_rows: float
    gains: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def any(self) -> bool:
        """Returns whether sites have covariances of their own at all."""
        return self.directions or bool(np.isfinite(self.prior_rows))

    def name(self, features: int) -> str:
        """Returns the choice in words."""
        if not self.any:
            return "shared covariance"
        turned = f"turned directions with a prior of {self.prior_rows / features:g} rows a feature"
        parts = ["a variance a direction"] if self.directions else []
        return " and ".join(parts + ([turned] if np.isfinite(self.prior_rows) else []))


NO_COVARIANCE = CovarianceChoice(False, np.inf)


@dataclasses.dataclass(frozen=True)
class Whitening:
    """The pooled covariance of rows within their sites.

    Attributes:
      covariance: (F, F) float64 pooled covariance, a twentieth of it moved to its diagonal.
      kept: (F, D) float64 orthonormal whitened directions of covariates and target, which are never turned.
      values, basis: (F,) and (F, F) float64 eigenvalues and eigenvectors of the covariance.
    """

    covariance: np.ndarray
    kept: np.ndarray
    values: np.ndarray
    basis: np.ndarray

    @classmethod
    def of(cls, covariance: np.ndarray, effects: np.ndarray) -> "Whitening":
        """Returns the whitening of a covariance that keeps the directions of (P, F) effects."""
        values, basis = np.linalg.eigh(covariance)
        self = cls(covariance, np.zeros((len(covariance), 0)), np.maximum(values, 1e-9), basis)
        return dataclasses.replace(self, kept=_directions(effects @ self.whitening))

    @classmethod
    def fit(cls, residuals: np.ndarray, effects: np.ndarray) -> "Whitening":
        """Estimates the covariance of (N, F) residuals beside their site. `effects` are (P, F) effects to be kept."""
        covariance = residuals.T @ residuals / len(residuals)
        variance = np.maximum(np.diag(covariance), 1e-6)  # a constant feature
        return cls.of((1 - _DIAGONAL_SHARE) * covariance + _DIAGONAL_SHARE * np.diag(variance), effects)

    @property
    def whitening(self) -> np.ndarray:
        """Returns the (F, F) inverse square root of the covariance."""
        return (self.basis / np.sqrt(self.values)) @ self.basis.T

    @property
    def unwhitening(self) -> np.ndarray:
        """Returns the (F, F) square root of the covariance."""
        return (self.basis * np.sqrt(self.values)) @ self.basis.T

    def take(self, columns: np.ndarray) -> "Whitening":
        """Returns the whitening of some of the features, an (F,) bool mask."""
        if columns.all():
            return self
        return Whitening.of(self.covariance[np.ix_(columns, columns)], (self.unwhitening @ self.kept)[columns].T)

    def scores(self, residuals: np.ndarray) -> np.ndarray:
        """Returns (N, F) residuals along the principal directions, with a pooled variance near 1."""
        return residuals @ self.basis / np.sqrt(self.values)

    def transport(self, residuals: np.ndarray, rows: float, prior_rows: float, logs: np.ndarray) -> np.ndarray:
        """Returns the (F, F) matrix that maps a site's residuals (from the right) to the pooled covariance.

        The identity stays on the kept directions.

        Args:
          residuals: (n, F) residuals of the site about their mean.
          rows: number of independent rows.
          prior_rows: number of rows of the prior, infinity for directions that are not turned.
          logs: (F,) log variances of the principal directions, the mean of the prior.
        """
        own = np.diag(np.exp(logs))
        if rows >= 2 and np.isfinite(prior_rows):
            scores = self.scores(residuals)
            own = (scores.T @ scores / len(scores) * rows + prior_rows * own) / (rows + prior_rows)
        kept = self.basis.T @ self.kept
        kept = kept @ kept.T
        free = np.eye(len(own)) - kept
        turn = kept + free @ power(free @ own @ free + kept, -0.5) @ free
        return (self.basis / np.sqrt(self.values)) @ turn @ (self.basis * np.sqrt(self.values)).T


def choose_covariance(residuals: np.ndarray, number: np.ndarray, person: np.ndarray) -> CovarianceChoice:
    """Chooses how far sites have covariances of their own, by the log likelihood of held-out rows.

    In each of five folds all is estimated from the other folds' rows. Of the choices within one standard error of the
    best one, the one with the least freedom is taken.

    Args:
      residuals: (N, F) residuals with mean 0 in each site.
      number: (N,) sites, 0 to K - 1.
      person: (N,) codes of persons. A person's rows share a fold.
    """
    if len(np.unique(person)) < 2:
        return NO_COVARIANCE  # no row can be held out
    features = residuals.shape[1]
    priors = np.array(PRIORS_A_FEATURE[::-1]) * features
    fold = _folds(person)
    gain = np.concatenate([_gains(residuals, number, fold != held_out, priors) for held_out in range(_FOLDS)])
    choices = [NO_COVARIANCE, *(CovarianceChoice(True, float(prior)) for prior in priors)]
    if not len(gain):
        return NO_COVARIANCE
    mean = gain.mean(axis=0)
    best = int(np.argmax(mean))
    error = (gain - gain[:, [best]]).std(axis=0) / np.sqrt(len(gain))
    chosen = choices[int(np.flatnonzero(mean >= mean[best] - error)[0])]
    gains = {choice.name(features): float(value) for choice, value in zip(choices, mean, strict=True)}
    return dataclasses.replace(chosen, gains=gains)


def _gains(residuals: np.ndarray, number: np.ndarray, inner: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """Returns the gain in log likelihood of each row that is not `inner`, (rows, 1 + priors), 0 for no covariance."""
    sites = number.max() + 1
    whitening = Whitening.fit(residuals[inner], np.zeros((0, residuals.shape[1])))
    scores = whitening.scores(residuals)
    prior, logs = fit_directions(scores[inner], number[inner], sites)
    counts = np.bincount(number[inner], minlength=sites)
    parts = [np.zeros((0, 1 + len(priors)))]
    for site in np.flatnonzero(counts >= 2):
        fitted, held_out = scores[inner & (number == site)], scores[~inner & (number == site)]
        own = np.diag(np.exp(prior.shrink(logs[site], counts[site])))
        sample = fitted.T @ fitted / len(fitted)
        columns = [np.zeros(len(held_out))]
        for rows in priors:
            share = 1 / (1 + len(fitted) / rows)
            columns.append(_log_density(held_out, (1 - share) * sample + share * own))
        parts.append(np.stack(columns, axis=1))
        parts[-1][:, 1:] += np.sum(held_out**2, axis=1, keepdims=True) / 2
    return np.concatenate(parts)


def fit_directions(scores: np.ndarray, number: np.ndarray, sites: int) -> tuple[VariancePrior, np.ndarray]:
    """Returns the prior of sites' log variances along directions, and their (K, F) estimates."""
    logs = log_variances(scores, number, sites)
    return VariancePrior.fit(logs, np.bincount(number, minlength=sites), scores), logs


def _log_density(rows: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    factor = np.linalg.cholesky(covariance)
    return -np.sum(np.linalg.solve(factor, rows.T) ** 2, axis=0) / 2 - np.log(np.diag(factor)).sum()


def _folds(codes: np.ndarray) -> np.ndarray:
    """Returns the fold of each row. The persons are dealt to the folds in a fixed random order."""
    persons, index = np.unique(codes, return_inverse=True)
    return (np.random.default_rng(0).permutation(len(persons)) % _FOLDS)[index]


def power(symmetric: np.ndarray, exponent: float) -> np.ndarray:
    """Returns a power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.maximum(values, 1e-9) ** exponent) @ vectors.T


def _directions(rows: np.ndarray) -> np.ndarray:
    """Returns an (F, D) orthonormal basis of the span of (P, F) rows."""
    if not len(rows):
        return np.zeros((rows.shape[1], 0))
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    return vectors[values > 1e-9 * max(values[0], 1e-300)].T
