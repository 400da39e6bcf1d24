"""The common intensity scale of a cohort whose images lie on its grid, in plain NumPy."""

from collections.abc import Iterable

import nibabel
import numpy as np

from eqpool.data.cohort import Cohort


def tissue_of(values: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Returns the mean and the deviation of an image's non-zero voxels inside the mask."""
    tissue = values[mask & (values != 0)].astype(np.float64)
    return tissue.mean(), tissue.std()


def common_scale(cohort: Cohort, rows: Iterable[int] | None = None) -> tuple[float, float]:
    """Returns the medians of tissue mean and tissue deviation over rows, by default the training rows."""
    rows = cohort.rows("train") if rows is None else rows
    images = [nibabel.load(cohort.volumes.image_path[row]).get_fdata() for row in rows]
    mean, deviation = np.array([tissue_of(image, cohort.volumes.grid.mask) for image in images]).T
    return float(np.median(mean)), float(np.median(deviation))


def rescaled(values: np.ndarray, mask: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Returns an image on the scale, on which its tissue has these moments. Empty voxels stay 0."""
    mean, deviation = tissue_of(values, mask)
    return np.where(values != 0, scale[0] + scale[1] * (values - mean) / deviation, 0)


def changed(values: np.ndarray, mask: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Returns an image plus a change in z-scores of its tissue, in its own units."""
    return np.where(mask & (values != 0), values + tissue_of(values, mask)[1] * change, values)
