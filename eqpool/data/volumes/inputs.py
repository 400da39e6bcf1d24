"""The part of a cohort that only volumes have: their grid, their images, and how each image was prepared."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from eqpool.data.site_effects.voxelwise import VoxelCalibration
from eqpool.data.volumes.records import RecordedVolumes


@dataclasses.dataclass(frozen=True)
class Grid:
    """A voxel grid in template space.

    Attributes:
      name: name that the user gave, for messages.
      shape: number of voxels along x, y, z (RAS+).
      affine: (4, 4) float64 map from voxel indices to millimetres.
      mask: bool array of `shape`, True inside the brain.
    """

    name: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    mask: np.ndarray


class ImageFacts(NamedTuple):
    """What the preparation of one image found out about it.

    Attributes:
      tissue_mean, tissue_deviation: mean and standard deviation of its tissue, in the image's own units. The prepared
        volume holds z-scores by these.
      alignment: (4, 4) map from its millimetres to the template's, or None if they are the same.
      mask_overlap: Dice coefficient of its non-zero voxels and the template's brain mask, NaN if it was not computed.
    """

    tissue_mean: float
    tissue_deviation: float
    alignment: np.ndarray | None = None
    mask_overlap: float = math.nan


@dataclasses.dataclass(frozen=True)
class VolumeInputs:
    """The images of N volumes on one grid.

    Attributes:
      grid: voxel grid of the prepared volumes.
      image_path: (N,) str, file of each volume.
      image_root: folder of the images' data set.
      scan_name: (N,) str, name of each volume's derivatives from `eqpool.data.volumes.bids_names`.
      mask_overlap: (N,) float64, Dice coefficient of each volume's non-zero voxels and the template's brain mask.
      tissue_mean, tissue_deviation: (N,) float64, mean and standard deviation by which each volume was z-scored, in the
        image's own units.
      prepared: the N volumes before the site calibration, None if the cohort's `inputs` are these.
      calibration: site calibration that was applied, None if there was none.
      alignment: (N, 4, 4) float64, map from each image's millimetres to the template's, None if all agree.
    """

    grid: Grid
    image_path: np.ndarray
    image_root: str
    scan_name: np.ndarray
    mask_overlap: np.ndarray
    tissue_mean: np.ndarray
    tissue_deviation: np.ndarray
    alignment: np.ndarray | None = None
    prepared: np.ndarray | RecordedVolumes | None = None
    calibration: VoxelCalibration | None = None

    def facts_of(self, row: int) -> ImageFacts:
        """Returns the facts of one row's image."""
        alignment = None if self.alignment is None else self.alignment[row]
        mean, deviation = float(self.tissue_mean[row]), float(self.tissue_deviation[row])
        return ImageFacts(mean, deviation, alignment, float(self.mask_overlap[row]))

    def take(self, rows: np.ndarray) -> VolumeInputs:
        """Returns the part for some rows, in the order of `rows`."""
        columns = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        prepared = None if self.prepared is None else self.prepared[rows]
        return dataclasses.replace(self, **columns | {"prepared": prepared})
