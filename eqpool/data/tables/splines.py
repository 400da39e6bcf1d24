"""Computes restricted cubic splines of covariates for regression models with smooth effects, in float64."""

import dataclasses

import numpy as np

_KNOT_QUANTILES = {3: (0.1, 0.5, 0.9), 4: (0.05, 0.35, 0.65, 0.95), 5: (0.05, 0.275, 0.5, 0.725, 0.95)}


@dataclasses.dataclass(frozen=True)
class CovariateDesign:
    """The regression columns of covariates, learnt from training rows and linear beyond the outer knots.

    Attributes:
      mean: (C,) float64 means, subtracted from the covariates.
      scale: (C,) float64 standard deviations, 1 where the deviation is 0.
      knots: C arrays of scaled knots. The array is empty if a covariate has too few values for a curve.
    """

    mean: np.ndarray
    scale: np.ndarray
    knots: tuple[np.ndarray, ...]

    @classmethod
    def fit(cls, covariates: np.ndarray, num_knots: int = 4) -> "CovariateDesign":
        """Learns the design from the (N, C) covariates of training rows, with knots at Harrell's quantiles."""
        mean, deviation = covariates.mean(axis=0), covariates.std(axis=0)
        scale = np.where(deviation > 0, deviation, 1.0)
        return cls(mean, scale, tuple(_knots(column, num_knots) for column in ((covariates - mean) / scale).T))

    def apply(self, covariates: np.ndarray) -> np.ndarray:
        """Returns the (N, P) float64 columns of (N, C) covariates: the C scaled covariates, then the curves of each."""
        scaled = (np.asarray(covariates, np.float64) - self.mean) / self.scale
        curves = [restricted_cubic_spline(column, knots) for column, knots in zip(scaled.T, self.knots, strict=True)]
        return np.concatenate([scaled, *curves], axis=1)


def restricted_cubic_spline(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Returns the (N, K - 2) curved columns of a cubic spline, linear beyond its K knots (Harrell 2015, eq. 2.25).

    Together with a constant and the (N,) `values` themselves, they span the natural cubic splines on these knots.
    """
    if len(knots) < 3:
        return np.zeros((len(values), 0))
    last, before = knots[-1], knots[-2]
    cubes = np.maximum(values[:, None] - knots[None], 0) ** 3
    from_before = (last - knots[:-2]) / (last - before)
    from_last = (before - knots[:-2]) / (last - before)
    curves = cubes[:, :-2] - cubes[:, -2:-1] * from_before + cubes[:, -1:] * from_last
    return curves / (last - knots[0]) ** 2


def _knots(values: np.ndarray, num_knots: int) -> np.ndarray:
    if len(np.unique(values)) < 2 * num_knots:
        return np.zeros(0)
    knots = np.unique(np.quantile(values, _KNOT_QUANTILES[num_knots]))
    return knots if len(knots) == num_knots else np.zeros(0)
