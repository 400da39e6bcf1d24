"""Recognises images that show only a part of a brain, such as a slab or a box around the hippocampus."""

import functools

import nibabel
import numpy as np
from nibabel.affines import apply_affine

from eqpool.data.volumes.grids import LARGEST_SIDE, LARGEST_VOXEL_MM, SMALLEST_SIDE

# Share of the template's brain along each axis. An infant's brain spans about 0.65, a slab or a structure spans less.
_WHOLE_BRAIN = 0.6
_DENSE_BOX = 0.4  # share of non-zero voxels in a box, below which a grid over the box would be refused as mostly empty


def content_box_mm(image: nibabel.Nifti1Image) -> np.ndarray:
    """Returns the corners, (2, 3) in millimetres, of the box around an image's non-zero voxels, with voxel edges."""
    filled = np.asarray(image.dataobj) != 0
    columns = filled.any(axis=2)  # the volume is read twice, and not once for each axis
    ends = []
    for along in (columns.any(axis=1), columns.any(axis=0), filled.any(axis=0).any(axis=0)):
        there = np.flatnonzero(along)
        ends.append((there[0] - 0.5, there[-1] + 0.5) if there.size else (-0.5, -0.5))
    corners = apply_affine(image.affine, np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3))
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def is_part_of_brain(image: nibabel.Nifti1Image) -> bool:
    """Returns whether a RAS+ image shows too little along some axis to hold a whole brain. Its position is ignored."""
    return bool((np.ptp(content_box_mm(image), axis=0) < _WHOLE_BRAIN * brain_extent_mm()).any())


@functools.lru_cache(maxsize=1)
def brain_extent_mm() -> np.ndarray:
    """Returns the extent of the template's brain along x, y and z, (3,) in millimetres."""
    from nilearn.datasets import load_mni152_brain_mask  # takes a second to import

    return np.ptp(content_box_mm(load_mni152_brain_mask(resolution=2)), axis=0)


def advice_for_crop(image: nibabel.Nifti1Image) -> str:
    """Returns advice for a RAS+ image that shows a part of a brain, or "" if it may show a whole brain."""
    if not is_part_of_brain(image):
        return ""
    box = content_box_mm(image)
    said = f"it shows {_by(np.ptp(box, axis=0))} mm of a brain of about {_by(brain_extent_mm())} mm, which aligning "
    filled = np.count_nonzero(image.dataobj) * abs(np.linalg.det(image.affine[:3, :3]))
    if filled < _DENSE_BOX * np.prod(np.ptp(box, axis=0)):
        return said + "cannot help; cut out a whole box around the structure, or pool its measures as a table"
    grid = f'config.data.grid = "{_grid(image)}"'
    return said + f"cannot help; where it lies in MNI space, a grid of its own does: {grid}"


def _grid(image: nibabel.Nifti1Image) -> str:
    """Returns the name of a grid that covers the image's content with voxels of about the image's size."""
    box = content_box_mm(image)
    extent, voxels = np.ptp(box, axis=0), np.abs(nibabel.affines.voxel_sizes(image.affine))
    sides = np.clip(np.maximum(voxels, extent / LARGEST_SIDE), 0.1, LARGEST_VOXEL_MM).round(2)
    shape = np.clip(np.round(extent / sides).astype(int), SMALLEST_SIDE, LARGEST_SIDE)
    equal = len(set(sides.tolist())) == 1
    mm = f"{sides[0]:g}" if equal else "x".join(f"{side:g}" for side in sides)
    return f"{'x'.join(map(str, shape))}@{mm}@{','.join(f'{place:g}' for place in box.mean(axis=0).round(1))}"


def _by(extent_mm: np.ndarray) -> str:
    return "x".join(f"{side:.0f}" for side in extent_mm)
