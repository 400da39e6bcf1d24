"""Computes which scanner a row without a site may be of, including none of the known ones."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from eqpool.data.tables.calibration.effect import SiteEffect
from eqpool.data.tables.calibration.shrinkage import ShiftPrior

NONE_PRIOR = 0.1  # probability that a row without a site is of no known scanner, before its features are seen
_TEMPERATURES = np.geomspace(1.0, 100.0, 25)


@dataclasses.dataclass(frozen=True)
class Population:
    """The distribution of features on the average scanner.

    Attributes:
      mean: (F,) float64 mean at the mean covariates.
      covariance: (F, F) float64 covariance of new rows at fixed covariates and target.
      terms: (F, F) float64 covariance due to covariates and target, which a row without covariates adds.
      shifts: distribution of scanners' shifts.
      temperature: divisor of log likelihoods. Features are not as normal and independent as the model has it, so
        that probabilities would be too sure.
    """

    mean: np.ndarray
    covariance: np.ndarray
    terms: np.ndarray
    shifts: ShiftPrior
    temperature: float = 1.0

    def posterior(
        self, inputs: np.ndarray, effects: Mapping[str, SiteEffect], expected: np.ndarray | None
    ) -> np.ndarray:
        """Returns the probabilities of each site, and last of none of them, (N, K + 1).

        Args:
          inputs: (N, F) features.
          effects: effects of the K sites.
          expected: (N, F) features expected on the average scanner from a row's covariates, None if they are unknown.
        """
        likelihoods = self._likelihoods(inputs, effects, expected) / self.temperature
        rows = np.array([effect.rows for effect in effects.values()], np.float64)
        prior = np.append((1 - NONE_PRIOR) * rows / rows.sum(), NONE_PRIOR)
        return _normalised(likelihoods + np.log(prior))

    def tempered(
        self, inputs: np.ndarray, number: np.ndarray, effects: Mapping[str, SiteEffect], expected: np.ndarray
    ) -> "Population":
        """Returns a copy with the temperature at which the sites of training rows are likeliest.

        Args:
          inputs: (N, F) features of training rows.
          number: (N,) indices of their sites.
          effects: effects of the sites.
          expected: (N, F) features expected from their covariates.
        """
        likelihoods = self._likelihoods(inputs, effects, expected)[:, :-1]
        rows = np.bincount(number, minlength=len(effects))
        scores = [
            np.mean(np.log(_normalised(likelihoods / one + np.log(rows))[np.arange(len(number)), number] + 1e-12))
            for one in _TEMPERATURES
        ]
        return dataclasses.replace(self, temperature=float(_TEMPERATURES[int(np.argmax(scores))]))

    def likely_shift(self, inputs: np.ndarray, expected: np.ndarray | None) -> np.ndarray:
        """Returns the (N, F) shifts that an unknown scanner has most likely, given one row of it.

        The arguments are those of `posterior`.
        """
        mean, covariance = self._rows(expected)
        apart = inputs - mean - self.shifts.centre
        prior = self.shifts.covariance
        return self.shifts.centre + np.linalg.solve(prior + covariance, apart.T).T @ prior

    def _rows(self, expected: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and covariance of rows of the average scanner."""
        if expected is not None:
            return expected, self.covariance
        return self.mean, self.covariance + self.terms

    def _likelihoods(
        self, inputs: np.ndarray, effects: Mapping[str, SiteEffect], expected: np.ndarray | None
    ) -> np.ndarray:
        mean, covariance = self._rows(expected)
        columns = [
            _log_density(effect.apply(inputs) - mean, covariance) + effect.log_volume() for effect in effects.values()
        ]
        other = _log_density(inputs - mean - self.shifts.centre, covariance + self.shifts.covariance)
        return np.stack([*columns, other], axis=1)


def _log_density(differences: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Returns the (N,) log densities of a normal distribution without its constant."""
    factor = np.linalg.cholesky(covariance)
    squares = np.sum(np.linalg.solve(factor, differences.T) ** 2, axis=0)
    return -squares / 2 - np.log(np.diag(factor)).sum()


def _normalised(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
