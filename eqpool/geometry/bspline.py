"""Displacement fields of uniform cubic B-splines, the parameters of a free-form deformation (Rueckert et al. 1999).

Control points are `spacing` voxels apart. The first one lies one spacing before the first voxel, and the last one is
the last that influences the image. The kernel is the exact cubic B-spline, not an iterated box filter.
"""

import string
from collections.abc import Sequence

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.ops.arguments import check_shape
from eqpool.ops.numerics import as_float, einsum


def bspline_control_shape(shape: Sequence[int], spacing: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the number of control points along each axis: ceil((n - 1) / spacing) + 3 for n voxels.

    Args:
      shape: numbers of voxels.
      spacing: distance between control points in voxels, one number for all axes or one for each.

    Raises:
      ValueError: a spacing is not a positive whole number, or their number is not that of the axes.
    """
    return tuple(-(-(size - 1) // step) + 3 for size, step in zip(shape, _spacings(shape, spacing), strict=True))


def bspline_displacement(control_points: ArrayLike, shape: Sequence[int], *, spacing: int | Sequence[int]) -> Array:
    """Computes the field u(x) = sum over control points k of c_k prod_d beta(x_d / p_d - k_d + 1).

    beta is the cubic B-spline and p the spacing. Each displacement is a weighted mean of the 4^D control points around
    the voxel. A cap on the control points is therefore a cap on the field, and equal control points give their
    displacement everywhere. The spline approximates its control points and does not pass through them.

    Args:
      control_points: (..., *control_shape, D), displacements in voxels, with `bspline_control_shape(shape, spacing)`
        control points along the axes.
      shape: numbers of voxels along D = 2 or 3 axes.
      spacing: distance between control points in voxels, one number for all axes or one for each.

    Returns:
      (..., *shape, D), in voxels.

    Raises:
      ValueError: shapes that do not go together, or a spacing that is not a positive whole number.
    """
    control_points = as_float(control_points)
    dimensions = len(shape)
    if dimensions not in (2, 3):
        raise ValueError(f"shape is {tuple(shape)}, expected two or three axes")
    expected = (*bspline_control_shape(shape, spacing), dimensions)
    check_shape("control_points", control_points, (..., *expected), f" for shape {tuple(shape)} and spacing {spacing}")
    bases = [_basis(*axis).astype(control_points.dtype) for axis in zip(shape, _spacings(shape, spacing), strict=True)]
    points, voxels = string.ascii_lowercase[:dimensions], string.ascii_uppercase[:dimensions]
    pairs = ",".join(voxel + point for voxel, point in zip(voxels, points, strict=True))
    return einsum(f"...{points}z,{pairs}->...{voxels}z", control_points, *bases)


def _spacings(shape: Sequence[int], spacing: int | Sequence[int]) -> tuple[int, ...]:
    spacings = np.broadcast_to(spacing, len(shape)) if np.ndim(spacing) == 0 else np.asarray(spacing)
    if spacings.shape != (len(shape),) or not np.issubdtype(spacings.dtype, np.integer) or np.any(spacings < 1):
        raise ValueError(
            f"spacing is {spacing}, expected a positive whole number of voxels, or {len(shape)} of them, one an axis"
        )
    return tuple(int(step) for step in spacings)


def _basis(size: int, spacing: int) -> np.ndarray:
    """Computes the weight of every control point at every voxel of an axis, (voxels, control points) float64."""
    (num_points,) = bspline_control_shape((size,), spacing)
    distance = np.abs(np.arange(size)[:, None] / spacing - (np.arange(num_points) - 1))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far)
