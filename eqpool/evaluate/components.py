"""Principal components of rows with many more columns than rows, in float64 and with a fixed sign."""

from typing import NamedTuple

import numpy as np

_NEGLIGIBLE = 1e-10  # relative to the largest variance; a smaller one is rounding


class Components(NamedTuple):
    """Principal components, or the columns themselves.

    Attributes:
      mean: (F,) float64, mean of the rows.
      axes: (K, F) float64, orthonormal, in the order of their variance; None for the columns themselves.
    """

    mean: np.ndarray
    axes: np.ndarray | None

    @classmethod
    def fit(cls, rows: np.ndarray, count: int) -> "Components":
        """Computes at most `count` principal components of (N, F) rows, or keeps the columns if `count` is 0."""
        mean = rows.mean(axis=0, dtype=np.float64)
        if count == 0:
            return cls(mean, None)
        centred = rows - mean
        variance, left = np.linalg.eigh(centred @ centred.T)  # N x N: rows are fewer than columns
        kept = np.argsort(-variance, kind="stable")[:count]
        kept = kept[variance[kept] > _NEGLIGIBLE * max(variance.max(initial=0.0), 1e-300)]
        axes = (left[:, kept] / np.sqrt(variance[kept])).T @ centred
        largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
        return cls(mean, axes * np.sign(largest))

    @classmethod
    def fit_few(cls, rows: np.ndarray, most: int) -> "Components":
        """Computes at most `most` components, and no more than half as many as there are rows, as `fit` does."""
        return cls.fit(rows, min(most, len(rows) // 2))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Returns (N, K) float64 coordinates of (N, F) rows, or the rows' columns less their means."""
        centred = rows - self.mean
        return centred if self.axes is None else centred @ self.axes.T
