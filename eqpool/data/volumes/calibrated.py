"""Prepared volumes that are calibrated when they are read."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from eqpool.data.site_effects.voxelwise import VoxelCalibration
from eqpool.data.volumes.records import RecordedVolumes


class CalibratedVolumes:
    """N volumes as an array (N, *shape) float32 that reads and calibrates each volume when it is indexed.

    Attributes:
      weights: (N, S) weights of the sites' effects in each volume.
    """

    def __init__(self, prepared: np.ndarray | RecordedVolumes, calibration: VoxelCalibration, weights: np.ndarray):
        """Takes the N volumes, their calibration, and the (N, S) weights of the sites' effects in each."""
        self._prepared, self._calibration, self.weights = prepared, calibration, weights
        self.shape = prepared.shape
        self.dtype = np.dtype(np.float32)
        self.ndim = prepared.ndim

    def __len__(self) -> int:
        return len(self._prepared)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Returns (*shape) for one row, or (R, *shape) for a list, a slice, or an array of integers or bools."""
        indices = np.arange(len(self))[rows]
        if np.ndim(indices) == 0:
            return self._read(int(indices))
        volumes = np.empty((len(indices), *self.shape[1:]), np.float32)
        for place, row in enumerate(indices.tolist()):
            volumes[place] = self._read(row)
        return volumes

    def _read(self, row: int) -> np.ndarray:
        return self._calibration.apply_weights(self._prepared[row], self.weights[row])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Reads and calibrates all volumes."""
        return self[:].astype(dtype or np.float32, copy=False)


Inputs = np.ndarray | RecordedVolumes | CalibratedVolumes
