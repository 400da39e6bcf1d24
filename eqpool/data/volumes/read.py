"""Prepares one T1 volume for a network: resamples it to the grid and z-scores its tissue."""

import pathlib
from typing import NamedTuple

import nibabel
import numpy as np

from eqpool.data.volumes.field_of_view import advice_for_crop, is_part_of_brain
from eqpool.data.volumes.image_checks import BadVolumeError
from eqpool.data.volumes.image_files import read_volume
from eqpool.data.volumes.inputs import Grid
from eqpool.data.volumes.resampling import lay_on_grid

VERSION = 4  # raise it whenever a prepared volume would come out different
# Share of the mask that a brain off by a third of its width still covers. Less means another place or space.
LEAST_COVERAGE = 0.3
# Aligned brains overlap the mask by a Dice of about 0.9 and more. For the 120 unaligned IXI brains the median is 0.75.
ALIGNED_OVERLAP = 0.85


class Tissue(NamedTuple):
    """The intensities of one image's tissue, in the image's own units.

    Attributes:
      mean, deviation: mean and standard deviation of the non-zero voxels inside the brain mask, for the z-scores.
      overlap: Dice coefficient of the image's non-zero voxels and the brain mask.
    """

    mean: float
    deviation: float
    overlap: float


class Prepared(NamedTuple):
    """An image that is ready for a network.

    Attributes:
      volume: `grid.shape` float32, z-scores or their tanh.
      tissue: mean and deviation of the z-scores, and the overlap with the grid's brain mask.
      is_part: whether the image shows only a part of a brain, such as a slab.
    """

    volume: np.ndarray
    tissue: Tissue
    is_part: bool


def prepare_volume(
    path: pathlib.Path, grid: Grid, *, squash: bool = False, alignment: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Reads one image and prepares it for a network, with the arguments of `prepare_image`.

    Returns:
      The volume, `grid.shape` float32, and the Dice coefficient of its non-zero voxels and the brain mask.

    Raises:
      BadVolumeError: for the faults that `read_volume` and `prepare_image` list.
    """
    prepared = prepare_image(read_volume(path), path, grid, squash=squash, alignment=alignment)
    return prepared.volume, prepared.tissue.overlap


def prepare_image(
    image: nibabel.Nifti1Image,
    path: pathlib.Path,
    grid: Grid,
    *,
    squash: bool = False,
    alignment: np.ndarray | None = None,
) -> Prepared:
    """Resamples one image to the grid and scales it.

    An image that is finer than the grid is first smoothed according to the ratio of the voxel sizes
    (`eqpool.data.volumes.resampling` gives the reasons). Interpolation is linear, and is skipped for an image that
    already lies on the grid. Intensities are z-scored with the mean and standard deviation of the tissue, which is the
    non-zero voxels inside the grid's brain mask. Voxels outside the mask become 0. Empty voxels inside it are scaled
    too and so stay dark.

    Args:
      image: RAS+ image from `read_volume`.
      path: its file, which starts an error's message.
      grid: target grid.
      squash: whether to take the tanh of the z-scores, for networks with outputs in [-1, 1].
      alignment: (4, 4) map from the image's millimetres to the template's, or None if it lies in template space
        already.

    Raises:
      BadVolumeError: if the image misses the template's brain, or is constant inside it.
    """
    volume = lay_on_grid(image, grid, alignment)
    tissue = measure_tissue(volume, grid, path, image=image, aligned=alignment is not None)
    inside = (volume[grid.mask] - tissue.mean) / tissue.deviation
    scaled = np.zeros(grid.shape, np.float32)
    scaled[grid.mask] = np.tanh(inside) if squash else inside
    return Prepared(scaled, tissue, is_part_of_brain(image))


def measure_tissue(
    volume: np.ndarray, grid: Grid, path: pathlib.Path, *, image: nibabel.Nifti1Image, aligned: bool = False
) -> Tissue:
    """Computes the mean and deviation of the tissue of a volume that lies on the grid.

    Args:
      volume: `grid.shape` volume from `lay_on_grid`.
      grid: grid of the volume.
      path: path that starts an error's message.
      image: RAS+ image that the volume comes from.
      aligned: whether the image was registered to the template.

    Raises:
      BadVolumeError: if the volume misses the template's brain, or is constant inside it.
    """
    inside = volume[grid.mask]
    values = inside[inside != 0].astype(np.float64)
    brain = np.count_nonzero(grid.mask)
    coverage = float(values.size / brain)
    if coverage < LEAST_COVERAGE:
        if aligned:
            hint = "is it a skull-stripped brain? (its alignment to the template failed)"
        else:
            hint = 'is it in MNI space? (config.data.align = "affine" would align it)'
        raise BadVolumeError(
            f"{path}: covers {coverage:.0%} of the template's brain mask ({grid.name}), expected at least "
            f"{LEAST_COVERAGE:.0%}; {advice_for_crop(image) or hint}"
        )
    mean, deviation = float(values.mean()), float(values.std())
    if deviation <= 1e-6 * max(abs(mean), 1e-30):
        raise BadVolumeError(f"{path}: constant ({mean:g}) inside the brain mask, expected an image")
    return Tissue(mean, deviation, float(2 * values.size / (np.count_nonzero(volume != 0) + brain)))
