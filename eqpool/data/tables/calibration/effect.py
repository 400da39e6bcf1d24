"""The effect of one scanner on the features, as an affine map."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class SiteEffect:
    """The effect of one scanner.

    Attributes:
      rows: number of rows that the effect was learnt from.
      centre: (F,) float64 mean of these rows, with the scanner's shift shrunk.
      target: (F,) float64 mean that the average scanner would have given the same rows.
      scale: (F,) float64 deviations over those of the average scanner.
      transport: (F, F) float64, matrix by which a row's difference from `centre` is multiplied from the right. It holds
        1 / `scale` and the correction of the covariance.
      unchanged: (F,) bool, features without an estimate, because they had one value in all these rows.
    """

    rows: int
    centre: np.ndarray
    target: np.ndarray
    scale: np.ndarray
    transport: np.ndarray
    unchanged: np.ndarray

    @property
    def shift(self) -> np.ndarray:
        """Returns the (F,) shift of the scanner."""
        return self.centre - self.target

    def apply(self, inputs: np.ndarray) -> np.ndarray:
        """Maps (N, F) rows of this scanner to the values expected from the average scanner."""
        return self.target + (inputs - self.centre) @ self.transport

    def undo(self, inputs: np.ndarray) -> np.ndarray:
        """Maps (N, F) rows of the average scanner to the values expected from this scanner."""
        return self.centre + np.linalg.solve(self.transport.T, (inputs - self.target).T).T

    def log_volume(self) -> float:
        """Returns the log determinant of the map."""
        return float(np.linalg.slogdet(self.transport)[1])
