"""Resamples images: smooths them first if the new voxels are coarser, then interpolates linearly.

Every image is resampled by `resample`. Without smoothing, a scan of 1 mm that is read at every fourth voxel keeps all
of its noise, and detail that the grid cannot hold is aliased into patterns that it can. Noise and aliasing both depend
on the scanner's resolution and so become site effects.

The kernel is a Gaussian that makes up the difference between the voxel sizes. A voxel of side s is modelled as a
Gaussian point spread of FWHM s, so that a variance of (target^2 - source^2) / (8 ln 2) turns the source's resolution
into the target's (Cardoso et al., "Scale factor point spread function matching: beyond aliasing in image resampling",
MICCAI 2015). TorchIO's Resample does the same. These are the usual alternatives, compared on white noise of deviation 1
and on IXI's brains:

- scikit-image's sigma of (ratio - 1) / 2 is too narrow at a ratio of 2, the most common one here. It leaves 0.51 or
  0.26 of the noise, depending on where the grid's points fall between the voxels, and 64 % of a wave of 0.75 cycles a
  voxel of the grid. This kernel leaves 0.24 or 0.18 of the noise, and 24 % of the wave. On IXI's brains of 2 mm with
  noise of a fifth of their contrast, the noise on the grid of 4 mm is 0.11 of the contrast without smoothing, 0.070
  with scikit-image's kernel and 0.041 with this one.
- The mean over a box leaves as much noise at a ratio of 2 (0.23 or 0.17). At a ratio of 4 it lets 27 % of that wave
  through, and this kernel 15 %. It is not a box at ratios that are not whole, and in oblique images it depends on the
  direction.
"""

import math
import warnings

import nibabel
import numpy as np
from scipy import ndimage

from eqpool.data.volumes.inputs import Grid

# Masks are interpolated linearly on purpose: their values become shares of a voxel.
warnings.filterwarnings("ignore", message="Resampling binary images", module=__name__)

VARIANCE_OF_FWHM = 1 / (8 * math.log(2))  # a Gaussian's variance divided by its squared FWHM
_SAME_SIZE = 1e-3  # voxel sides that differ by less count as equal, since affines are stored in single precision
_TRUNCATE = 4.0  # standard deviations, as in SciPy and nilearn


def smoothing_deviations(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the Gaussian's standard deviation along each axis of the source, (3,) float64, in source voxels.

    Let v = source^-1 target, the grid's voxel in source voxels. A Gaussian of FWHM 1 in the grid's coordinates then has
    the variance (v v^T)_ii / (8 ln 2) along the source's axis i, and the source's own voxel has 1 / (8 ln 2). The
    difference is exact for grids of equal sides in any orientation. For an oblique grid of unequal sides, the
    covariances between the axes are ignored.

    Args:
      source: (4, 4) affine from voxels of the source to millimetres.
      target: (4, 4) affine from voxels of the target to the same millimetres.
    """
    sides = np.linalg.norm(np.linalg.inv(source[:3, :3]) @ target[:3, :3], axis=1)
    return np.sqrt(np.where(sides > 1 + _SAME_SIZE, sides**2 - 1, 0) * VARIANCE_OF_FWHM)


def match_resolution(image: nibabel.Nifti1Image, target: np.ndarray) -> nibabel.Nifti1Image:
    """Smooths an image to the resolution of the affine `target`, (4, 4), and keeps the image's own voxels.

    An image that is finer along no axis is returned unchanged. Beyond its border the image is continued by its
    outermost voxels, so that a slab does not darken towards its ends. NaN counts as 0.
    """
    deviations = smoothing_deviations(image.affine, target)
    if not deviations.any():
        return image
    values = np.asarray(image.dataobj, dtype=np.float32)
    return nibabel.Nifti1Image(_smooth(np.nan_to_num(values, posinf=np.inf, neginf=-np.inf), deviations), image.affine)


def _smooth(values: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(values, deviations, mode="nearest", truncate=_TRUNCATE)


def resample(image: nibabel.Nifti1Image, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an image's values at other voxels, `shape` float32. Voxels outside the image are 0.

    The image is smoothed first along each axis on which it is finer than the new voxels (`match_resolution`).
    """
    from nilearn.image import resample_img  # takes a second to import
    from nilearn.image.resampling import BoundingBoxError

    try:
        resampled = resample_img(
            match_resolution(image, affine),
            target_affine=affine,
            target_shape=shape,
            interpolation="linear",
            copy_header=True,
            force_resample=True,
        )
    except BoundingBoxError:
        return np.zeros(shape, np.float32)
    return np.asarray(resampled.dataobj, dtype=np.float32)


def lay_on_grid(image: nibabel.Nifti1Image, grid: Grid, alignment: np.ndarray | None = None) -> np.ndarray:
    """Returns a RAS+ image's values at the grid's voxels, `grid.shape` float32. Voxels outside the image are 0.

    A voxel of 0 is empty: it was stripped off, or lies outside the field of view. Smoothing would spread the brain into
    the empty space around it, so a grid voxel that is more than half empty stays 0. An image that is nowhere finer than
    the grid is only interpolated. An image that lies on the grid is returned unchanged.

    Args:
      image: RAS+ image with finite voxels.
      grid: target grid.
      alignment: (4, 4) map from the image's millimetres to the grid's, or None if they are the same.
    """
    if alignment is not None:
        image = nibabel.Nifti1Image(np.asarray(image.dataobj), alignment @ image.affine)
    if lies_on(image.affine, image.shape, grid):
        return np.asarray(image.dataobj, dtype=np.float32)
    sampled = resample(image, grid.affine, grid.shape)
    if not smoothing_deviations(image.affine, grid.affine).any():
        return sampled
    return np.where(_filled_by_half(image, grid), sampled, 0)


def lies_on(affine: np.ndarray, shape: tuple[int, ...], grid: Grid) -> bool:
    """Returns whether voxels are those of the grid, in the same order and within a thousandth of a millimetre."""
    return shape == grid.shape and np.allclose(affine, grid.affine, atol=1e-3)


def _filled_by_half(image: nibabel.Nifti1Image, grid: Grid) -> np.ndarray:
    """Returns which grid voxels the image fills by half or more, `grid.shape` bool."""
    filled = np.asarray(image.dataobj) != 0
    if filled.all():
        return np.ones(grid.shape, bool)
    return resample(nibabel.Nifti1Image(filled.astype(np.float32), image.affine), grid.affine, grid.shape) >= 0.5
