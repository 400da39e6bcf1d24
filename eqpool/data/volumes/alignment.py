"""Registers brains to the template by an affine map.

dipy does the registration, by mutual information over a Gaussian pyramid, first rigid and then affine. dipy is
maintained, supports NIfTI affines and is an 11 MB wheel. SimpleITK's wheel is 53 MB, and ANTs' is larger still.
"""

import functools
import hashlib
import pathlib
import warnings
from collections.abc import Callable

import nibabel
import numpy as np

from eqpool.data.volumes.field_of_view import advice_for_crop
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.image_checks import BadVolumeError
from eqpool.data.volumes.read import measure_tissue
from eqpool.data.volumes.resampling import lay_on_grid, match_resolution, resample
from eqpool.errors import InputError
from eqpool.storage.files import read_json, write_json

VERSION = 3  # raise it whenever a map would come out different
_GRID = "mni_4mm"  # an affine map of a whole brain needs no finer grid
_PYRAMID = {"level_iters": [100, 50], "sigmas": [2.0, 0.0], "factors": [2, 1]}
_BINS = 32

Register = Callable[[nibabel.Nifti1Image], np.ndarray]  # as `align_to_template`


def find_alignment(
    image: nibabel.Nifti1Image,
    path: pathlib.Path,
    folder: pathlib.Path | None,
    register: Register | None = None,
) -> np.ndarray:
    """Returns the map from an image's millimetres to the template's, which `folder` keeps for every grid.

    The map is kept under a hash of the image's voxels and affine, so that each image is registered once.

    Args:
      image: RAS+ image from `read_volume`.
      path: its file, which starts an error's message.
      folder: folder of the maps, or None to keep none.
      register: computes the map, `align_to_template` by default.

    Raises:
      BadVolumeError: if the image shows a part of a brain, or cannot be brought onto the template's brain.
      InputError: if the kept map is damaged, or the map cannot be written.
    """
    if advice := advice_for_crop(image):  # an affine map would stretch the part over the whole brain
        raise BadVolumeError(f"{path}: cannot be aligned to the template: {advice}")
    register = register or align_to_template
    if folder is None:
        return _checked(register(image), image, path)
    said = repr((VERSION, image.shape, image.affine.tolist())).encode()
    kept = folder / f"{hashlib.sha256(said + np.asarray(image.dataobj).tobytes()).hexdigest()[:24]}.json"
    if kept.is_file():
        return _read_alignment(kept)
    found = _checked(register(image), image, path)
    write_json(kept, {"millimetres_to_template": found.tolist()})
    return found


def _checked(found: np.ndarray, image: nibabel.Nifti1Image, path: pathlib.Path) -> np.ndarray:
    """Returns `found`, or raises `BadVolumeError` if it does not bring the image onto the template's brain."""
    if not np.isfinite(found).all():
        raise BadVolumeError(f"{path}: no affine map to the template's brain was found; is it a skull-stripped brain?")
    grid = named_grid(_GRID)
    measure_tissue(lay_on_grid(image, grid, found), grid, path, image=image, aligned=True)
    return found


def _read_alignment(kept: pathlib.Path) -> np.ndarray:
    written = read_json(kept).get("millimetres_to_template")
    try:
        found = np.array(written, np.float64)
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.shape != (4, 4) or not np.isfinite(found).all():
        raise InputError(f"{kept}: damaged; remove it and its volume is aligned again")
    return found


def align_to_template(image: nibabel.Nifti1Image) -> np.ndarray:
    """Computes the affine map, (4, 4) float64, from the image's millimetres to the template's.

    Args:
      image: skull-stripped brain in RAS+, roughly upright, at any position. Its intensities may be z-scores.

    Returns:
      The map, or all NaN if the registration finds no invertible map.
    """
    from dipy.align.imaffine import (
        AffineInvalidValuesError,
        AffineInversionError,
        AffineRegistration,
        MutualInformationMetric,
        transform_centers_of_mass,
    )
    from dipy.align.transforms import AffineTransform3D, RigidTransform3D

    template, template_affine = _template()
    brain, affine = _moving(image, template_affine), image.affine
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dipy's own deprecations
            centred = transform_centers_of_mass(template, template_affine, brain, affine)
            registration = AffineRegistration(metric=MutualInformationMetric(nbins=_BINS), verbosity=0, **_PYRAMID)
            start = centred.affine
            for transform in (RigidTransform3D(), AffineTransform3D()):
                start = registration.optimize(
                    template,
                    brain,
                    transform,
                    None,
                    static_grid2world=template_affine,
                    moving_grid2world=affine,
                    starting_affine=start,
                ).affine
        return np.linalg.inv(start)
    except (AffineInvalidValuesError, AffineInversionError, np.linalg.LinAlgError):
        return np.full((4, 4), np.nan)


def _moving(image: nibabel.Nifti1Image, template_affine: np.ndarray) -> np.ndarray:
    """Returns the image smoothed to the template's resolution on its own voxels, float64. Background stays 0."""
    values = np.asarray(image.dataobj, np.float32)
    smooth = match_resolution(nibabel.Nifti1Image(_non_negative(values), image.affine), template_affine)
    return np.where(values != 0, np.asarray(smooth.dataobj), 0).astype(np.float64)


def _non_negative(brain: np.ndarray) -> np.ndarray:
    """Shifts the brain's intensities so that none is below 0. Background stays 0.

    The intensities of a brain that was z-scored inside its mask sum to 0, so that their centre of mass may lie
    anywhere. Mutual information would also confuse the background, at 0, with tissue of the mean intensity.
    """
    return np.where(brain != 0, brain - min(brain.min(), 0), 0)


@functools.lru_cache(maxsize=1)
def _template() -> tuple[np.ndarray, np.ndarray]:
    """Returns the template's brain and its affine."""
    from nilearn.datasets import load_mni152_template  # takes a second to import

    grid = named_grid(_GRID)
    brain = resample(load_mni152_template(resolution=2), grid.affine, grid.shape)
    return np.where(grid.mask, brain, 0).astype(np.float64), grid.affine
