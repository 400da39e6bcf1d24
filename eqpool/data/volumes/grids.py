"""Named voxel grids over the MNI152 brain that nilearn packages. Nothing is downloaded."""

import functools
import re
from typing import Any

import nibabel
import numpy as np

from eqpool.data.volumes.inputs import Grid
from eqpool.errors import InputError

MNI_2MM_SHAPE = (91, 109, 91)
MNI_2MM_ORIGIN_MM = (-90.0, -126.0, -72.0)  # FSL stores x from +90 downwards. In RAS+ it starts at -90
SMALLEST_SIDE, LARGEST_SIDE = 8, 256
LARGEST_VOXEL_MM = 20.0
_MARGIN_MM = 4.0


@functools.lru_cache(maxsize=8)
def named_grid(text: str) -> Grid:
    """Returns the grid that `config.data.grid` names.

    Args:
      text: "mni_4mm" (nilearn's 50x59x48), "mni_2mm" (FSL's 91x109x91), one number such as "64" (a cube), or a shape
        such as "32x40x32". Cubes and shapes cover the brain with equal voxel sides and a margin of 4 mm. "32x40x32@5"
        or "32x40x32@5x5x6" sets the voxel sides in mm instead. Such a grid is centred on the brain and may cut it off.
        "32x40x32@1@-26,-20,-14" also sets the grid's centre in MNI space, in mm, for images that show a part of the
        brain.

    Returns:
      A RAS+ `Grid` with the packaged MNI152 brain mask. Its arrays are read-only.

    Raises:
      InputError: if the text has another form, a side is outside 8 to 256 voxels, a voxel is 0 mm or above 20 mm, or
        the grid lies beside the brain.
    """
    if text == "mni_4mm":
        mask = _brain_mask(resolution_mm=4)
        return _grid(text, mask.shape, mask.affine, mask.get_fdata() > 0.5)
    if text == "mni_2mm":
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] = MNI_2MM_ORIGIN_MM
        return _grid_over_brain(text, MNI_2MM_SHAPE, affine)
    shape, sides_mm, middle_mm = _shape_sides_middle(text)
    grid = _grid_over_brain(text, shape, _covering_affine(shape, sides_mm, middle_mm))
    if not grid.mask.any():
        raise InputError(
            f'config.data.grid = "{text}": holds nothing of the brain, expected a middle in MNI space in mm'
        )
    return grid


def _shape_sides_middle(text: str) -> tuple[tuple[int, int, int], tuple[float, ...], tuple[float, ...]]:
    """Returns the shape, the three voxel sides in mm or (), and the centre in mm or ()."""
    number = r"\d{1,3}(?:\.\d{1,4})?"
    middle = rf"@-?{number},-?{number},-?{number}"
    pattern = rf"\d{{1,4}}(x\d{{1,4}}x\d{{1,4}})?(@{number}(x{number}x{number})?({middle})?)?"
    if not re.fullmatch(pattern, text, re.ASCII):
        raise InputError(
            f'config.data.grid = "{text}": expected mni_4mm, mni_2mm, a side such as 64, a shape such as 32x40x32, one '
            "with its voxels' sides in mm such as 32x40x32@5, or with its middle too, such as 32x40x32@1@-26,-20,-14"
        )
    shape, sides_mm, middle_mm, *_ = [*text.split("@"), "", ""]
    voxels = _three([int(side) for side in shape.split("x")])
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in voxels):
        raise InputError(f'config.data.grid = "{text}": expected sides of {SMALLEST_SIDE} to {LARGEST_SIDE} voxels')
    given = _three([float(side) for side in sides_mm.split("x")]) if sides_mm else ()
    if not all(0 < side <= LARGEST_VOXEL_MM for side in given):
        raise InputError(f'config.data.grid = "{text}": expected voxels above 0 and up to {LARGEST_VOXEL_MM:g} mm')
    return voxels, given, tuple(float(place) for place in middle_mm.split(",")) if middle_mm else ()


def _three(values: list[Any]) -> tuple[Any, Any, Any]:
    first, second, third = values * 3 if len(values) == 1 else values
    return first, second, third


def _covering_affine(
    shape: tuple[int, int, int], sides_mm: tuple[float, ...], middle_mm: tuple[float, ...]
) -> np.ndarray:
    """Returns an affine that centres the brain and has equal voxel sides that make it fit, unless these are given.

    The brain's extent is its bounding box with a margin of 4 mm.
    """
    mask = _brain_mask(resolution_mm=2)
    inside = np.argwhere(mask.get_fdata() > 0.5)
    corners = nibabel.affines.apply_affine(mask.affine, np.stack([inside.min(axis=0), inside.max(axis=0)]))
    extent_mm = corners[1] - corners[0] + 2 * _MARGIN_MM
    sides = np.array(sides_mm or (np.max(extent_mm / np.array(shape)),) * 3)
    affine = np.diag([*sides, 1.0])
    middle = np.array(middle_mm) if middle_mm else corners.mean(axis=0)
    affine[:3, 3] = middle - sides * (np.array(shape) - 1) / 2
    return affine


def _grid_over_brain(name: str, shape: tuple[int, int, int], affine: np.ndarray) -> Grid:
    from nilearn.image import resample_img
    from nilearn.image.resampling import BoundingBoxError

    mask = _brain_mask(resolution_mm=2)
    options = {"interpolation": "nearest", "copy_header": True}  # a voxel is brain if its centre is
    try:
        inside = resample_img(mask, target_affine=affine, target_shape=shape, **options).get_fdata() > 0.5
    except BoundingBoxError:
        inside = np.zeros(shape, bool)
    return _grid(name, shape, affine, inside)


def _brain_mask(*, resolution_mm: int) -> Any:
    from nilearn.datasets import load_mni152_brain_mask  # takes a second to import, and tables have no grid

    return load_mni152_brain_mask(resolution=resolution_mm)


def _grid(name: str, shape: tuple[int, ...], affine: np.ndarray, mask: np.ndarray) -> Grid:
    affine = np.array(affine, dtype=np.float64)
    mask = np.ascontiguousarray(mask, dtype=bool)
    affine.flags.writeable = mask.flags.writeable = False
    first, second, third = (int(side) for side in shape)
    return Grid(name, (first, second, third), affine, mask)
