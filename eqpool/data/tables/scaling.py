"""Computes z-scores of numeric columns and identifies the columns that are constant."""

import dataclasses

import numpy as np

from eqpool.errors import InputError

# Largest range of a constant column, in steps of float64 at the size of its largest value. It allows for rounding.
_ROUNDING_STEPS = 16


@dataclasses.dataclass(frozen=True)
class ColumnScaling:
    """The means and deviations of F columns over training rows.

    Attributes:
      mean: (F,) float64 means, 0 for a column without any value.
      deviation: (F,) float64 population standard deviations, 1 for a constant column.
      constant: (F,) bool, columns whose values differ by no more than rounding. Pooling does not change them.
      nonnegative: (F,) bool, columns without a negative value. None if a model of an earlier version is loaded.
    """

    mean: np.ndarray
    deviation: np.ndarray
    constant: np.ndarray
    nonnegative: np.ndarray | None

    @classmethod
    def fit(cls, values: np.ndarray) -> "ColumnScaling":
        """Computes the statistics of (N, F) numbers of at most 1e30 in size, NaN where missing.

        A column is constant if its range is at most 16 steps of float64 at its largest magnitude. Values that vary at
        a scale of 1e-13 are therefore not constant, but values of 1e8 that differ by rounding errors are.
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
        """Returns (N, F) numbers as (N, F) float64 z-scores. A missing or failed number becomes the mean, 0."""
        scores = np.nan_to_num((values - self.mean) / self.deviation, nan=0.0)
        return np.where(self.failed(values), 0.0, scores)

    def failed(self, values: np.ndarray) -> np.ndarray:
        """Returns which of (N, F) numbers are 0 although training rows lie far above 0, as of a parcel that failed.

        A column without negative values lies far above 0 if its mean is more than two deviations. Models of an earlier
        version, which did not store the sign, have no failed values.
        """
        positive = False if self.nonnegative is None else self.nonnegative & (self.mean > 2 * self.deviation)
        return (values == 0) & positive & ~self.constant

    def with_change(self, values: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Adds an (N, F) change in z-scores to (N, F) numbers in their own units.

        Constant columns and failed numbers do not change. A missing number stays missing.
        """
        unchanged = self.constant | self.failed(values)
        return values + np.where(unchanged, 0.0, self.deviation * change.astype(np.float64))

    def clipped(self, harmonised: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sets negative values to 0 in the columns without a negative value in training rows.

        Returns:
          The (N, F) numbers, and the (F,) int64 counts of values that were set to 0.

        Raises:
          InputError: an earlier version, which did not store the sign of its features, wrote the model.
        """
        if self.nonnegative is None:
            raise InputError(
                "keep_sign: the model is of an earlier version, which did not keep the sign of its features; train it "
                "again"
            )
        below = (harmonised < 0) & self.nonnegative
        return np.where(below, 0.0, harmonised), below.sum(axis=0)


def decoded_change(decoded: np.ndarray, pooled: np.ndarray, scale: float) -> np.ndarray:
    """Computes the change by the networks, `scale` (D(Psi(Phi)) - D(l)), of features or volumes in z-scores."""
    return scale * (pooled - decoded)


def pooled_change(
    inputs: np.ndarray, calibrated: np.ndarray, decoded: np.ndarray, pooled: np.ndarray, scale: float = 1.0
) -> np.ndarray:
    """Computes the change that pooling makes to (N, F) features, in z-scores.

    The change is the site calibration's change plus `scale` times the change between the two decoded features.
    Variation that the latent cannot represent is therefore preserved. If the calibrated inputs are passed as `decoded`,
    the result turns the features into `pooled` itself.

    Args:
      inputs: z-scores of the features.
      calibrated: z-scores after the site calibration, which the networks receive. Equal to `inputs` without one.
      decoded: D(l), the decoded features before pooling.
      pooled: D(Psi(Phi)), the decoded features after pooling.
      scale: factor on the networks' part of the change (`eqpool.data.site_effects.change_scale`).
    """
    return decoded_change(decoded, pooled, scale) + calibrated - inputs
