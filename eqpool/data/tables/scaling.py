"""The one z-scorer of columns of numbers: means, deviations, and which columns do not vary at all."""

import dataclasses

import numpy as np

from eqpool.errors import InputError

# Values that differ by no more than rounding do: so many steps of float64 at the largest value's size.
_ROUNDING_STEPS = 16


@dataclasses.dataclass(frozen=True)
class ColumnScaling:
    """Means and deviations of F columns over training rows.

    Attributes:
      mean: (F,) float64; 0 for a column without any value.
      deviation: (F,) float64, of the population; 1 for a constant column.
      constant: (F,) bool, columns whose values differ by no more than rounding. Pooling leaves them as they are.
      nonnegative: (F,) bool, columns without a negative value; None where a model of an earlier version lacks it.
    """

    mean: np.ndarray
    deviation: np.ndarray
    constant: np.ndarray
    nonnegative: np.ndarray | None

    @classmethod
    def fit(cls, values: np.ndarray) -> "ColumnScaling":
        """From (N, F) numbers of at most 1e30 in size, NaN where missing.

        A column is constant if its range is at most 16 steps of float64 at its largest size: a scale of 1e-13 that
        varies is no constant, and 1e8 with rounding errors is one.
        """
        known = np.isfinite(values)
        counts, has_any = np.maximum(known.sum(axis=0), 1), known.any(axis=0)
        lowest = np.where(has_any, np.where(known, values, np.inf).min(axis=0, initial=np.inf), 0.0)
        highest = np.where(has_any, np.where(known, values, -np.inf).max(axis=0, initial=-np.inf), 0.0)
        span, size = highest - lowest, np.maximum(np.abs(lowest), np.abs(highest))
        constant = span <= _ROUNDING_STEPS * np.finfo(np.float64).eps * size
        # Distances from the lowest value, in units of the span, neither lose digits to an offset nor underflow.
        unit = np.where(constant, 1.0, span)
        distances = np.where(known, (np.where(known, values, lowest) - lowest) / unit, 0.0)
        middle = distances.sum(axis=0) / counts
        variance = np.sum(np.where(known, distances - middle, 0.0) ** 2, axis=0) / counts
        mean = lowest + unit * middle
        deviation = np.where(constant, 1.0, unit * np.sqrt(variance))
        return cls(mean, deviation, constant, lowest >= 0)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(N, F) numbers to (N, F) float64 z-scores; a missing one becomes the mean, 0."""
        return np.nan_to_num((values - self.mean) / self.deviation, nan=0.0)

    def with_change(self, values: np.ndarray, change: np.ndarray) -> np.ndarray:
        """(N, F) numbers in their own units plus a (N, F) change in z-scores; constant columns come back as they are.

        A missing number stays missing.
        """
        return values + np.where(self.constant, 0.0, self.deviation * change.astype(np.float64))

    def clipped(self, harmonised: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, F) numbers with those below 0 set to 0 where no training row is below 0, and (F,) int64 how many.

        Raises:
          InputError: the model is of a version that did not keep which columns these are.
        """
        if self.nonnegative is None:
            raise InputError(
                "keep_sign: the model is of an earlier version, which did not keep the sign of its features; train it "
                "again"
            )
        below = (harmonised < 0) & self.nonnegative
        return np.where(below, 0.0, harmonised), below.sum(axis=0)


def pooled_change(inputs: np.ndarray, calibrated: np.ndarray, decoded: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """How much pooling changes (N, F) features, in z-scores.

    It is the site calibration's change plus the change in what the decoder gives, so that what the latent has no room
    for is kept. With the calibrated inputs for `decoded` the features become the decode itself.

    Args:
      inputs: z-scores of the features.
      calibrated: the same after the site calibration, which the networks see; `inputs` without one.
      decoded: D(l), the decode before pooling.
      pooled: D(Psi(Phi)), the decode after it.
    """
    return pooled - decoded + calibrated - inputs
