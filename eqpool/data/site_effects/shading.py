"""Estimates each scan's own smooth shading from the voxels in which brains differ least, and removes it.

Coils shade every scan differently, beyond what a site's scans share. A smooth field fitted to a scan's difference from
the mean image also removes anatomy, unless voxels weigh by how alike brains are there. Deep white matter varies little
between people, so a field that shows there is mostly the scanner's. The effects of covariates and target are fitted
beside the field, so that none of them is taken for shading.
"""

import dataclasses
import functools

import numpy as np

SHARE = 0.6  # part of the estimate that is removed, since some of it is anatomy
_LEAST_VARIANCE_QUANTILE = 0.02  # quantile of the voxels' variances that is added to all of them


@dataclasses.dataclass(frozen=True)
class Shading:
    """A weighted least-squares fit of a quadratic field, multiplied with the mean image, and of an offset.

    Attributes:
      centre: (V,) float64, mean training volume, about which a scan's shading is estimated.
      basis: (V, B) float64, the fields at the V voxels.
      solver: (B, V) float64, maps a scan's difference from `centre` to the coefficients of the fields.
    """

    centre: np.ndarray
    basis: np.ndarray
    solver: np.ndarray

    @classmethod
    def fit(
        cls, mean: np.ndarray, variance: np.ndarray, points: np.ndarray, zero: float, kept: np.ndarray | None = None
    ) -> "Shading":
        """Builds the fit.

        Args:
          mean: (V,) mean training volume, in z-scores.
          variance: (V,) variance of the training volumes.
          points: (V, 3) positions of the voxels, in any unit.
          zero: z-score of an intensity of 0. A field multiplies an image's distance from it.
          kept: (P, V) maps, such as the effects of age and target, that are fitted beside the fields and not removed.
        """
        basis = np.concatenate([_quadratic(points) * (mean - zero)[:, None], np.ones((len(mean), 1))], axis=1)
        least = np.quantile(variance, _LEAST_VARIANCE_QUANTILE)
        weight = 1 / (variance + max(least, 1e-3 * variance.mean(), 1e-12)) ** 2
        weight /= weight.mean()
        every = basis if kept is None else np.concatenate([basis, kept.T], axis=1)
        every = every / np.maximum(np.sqrt((weight[:, None] * every**2).mean(axis=0)), 1e-12)
        weighted = every * weight[:, None]
        solver = np.linalg.pinv(every.T @ weighted, hermitian=True) @ weighted.T
        return cls(mean, every[:, : basis.shape[1]], solver[: basis.shape[1]])

    def remove(self, values: np.ndarray) -> np.ndarray:
        """Returns (N, V) volumes less most of their own shading."""
        return self.remove_from_difference(values - self.centre) + self.centre

    def remove_from_difference(self, values: np.ndarray) -> np.ndarray:
        """Returns (..., V) differences of volumes less what `remove` takes from them."""
        return values - SHARE * (values @ self.solver.T) @ self.basis.T

    def remove_quickly(self, values: np.ndarray) -> np.ndarray:
        """Returns a (V,) volume less most of its own shading, in float32 as the networks read it."""
        centre, basis, solver = self._single_precision
        return values - np.float32(SHARE) * (basis @ (solver @ (values - centre)))

    @functools.cached_property
    def _single_precision(self) -> tuple[np.ndarray, ...]:
        return tuple(part.astype(np.float32) for part in (self.centre, self.basis, self.solver))


def _quadratic(points: np.ndarray) -> np.ndarray:
    """Returns (V, 10) polynomials of up to the second degree in positions of unit variance."""
    spread = points.std(axis=0)
    x, y, z = ((points - points.mean(axis=0)) / np.where(spread > 0, spread, 1)).T
    return np.stack([np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], axis=1)
