"""Smooths values at a brain's voxels."""

import numpy as np
from scipy import ndimage


class BrainSmoother:
    """A Gaussian average over neighbouring voxels of a mask. Voxels outside the mask have no weight."""

    def __init__(self, mask: np.ndarray, sigma: np.ndarray):
        """Takes the bool volume `mask` and the (3,) standard deviations `sigma`, in voxels."""
        self._mask, self._sigma = mask, sigma
        self._weight = self._filter(np.ones(int(mask.sum())))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Returns the smoothed (V,) float64 values at the mask's V voxels."""
        return self._filter(values) / self._weight

    def _filter(self, values: np.ndarray) -> np.ndarray:
        volume = np.zeros(self._mask.shape)
        volume[self._mask] = values
        return ndimage.gaussian_filter(volume, self._sigma, mode="constant")[self._mask]
