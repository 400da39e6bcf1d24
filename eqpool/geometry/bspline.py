"""Displacement fields of uniform cubic B-splines, the parameters of a free-form deformation (Rueckert et al. 1999).

A control point stands every `spacing` voxels, the first one spacing before the first voxel, and as many follow as have
a say over the image. The kernel is the cubic B-spline itself, not an iterated box filter.
"""

import string
from collections.abc import Sequence

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.ops.arguments import check_shape
from eqpool.ops.numerics import as_float, einsum


def bspline_control_shape(shape: Sequence[int], spacing: int | Sequence[int]) -> tuple[int, ...]:
    """The number of control points along each axis: ceil((n - 1) / spacing) + 3 for n voxels.

    Args:
      shape: numbers of voxels.
      spacing: voxels from one control point to the next, for all axes or one number for each.

    Raises:
      ValueError: a spacing that is no positive whole number, or another number of them than axes.
    """
    return tuple(-(-(size - 1) // step) + 3 for size, step in zip(shape, _spacings(shape, spacing), strict=True))


def bspline_displacement(control_points: ArrayLike, shape: Sequence[int], *, spacing: int | Sequence[int]) -> Array:
    """The field u(x) = sum over control points k of c_k prod_d beta(x_d / p_d - k_d + 1): cubic B-spline, spacing p.

    A weighted mean of the 4^D control points around a voxel, so a cap on control points is one on the field, and equal
    control points give that displacement everywhere. The spline approximates its control points; it does not pass
    through them.

    Args:
      control_points: (..., *control_shape, D), displacements in voxels, with `bspline_control_shape(shape, spacing)`
        control points along the axes.
      shape: D numbers of voxels, two or three.
      spacing: voxels from one control point to the next, for all axes or one number for each.

    Returns:
      (..., *shape, D), in voxels.

    Raises:
      ValueError: shapes that do not go together, or a spacing that is no positive whole number.
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
    """Weight (voxels, control points) of every control point at every voxel of an axis, float64."""
    (num_points,) = bspline_control_shape((size,), spacing)
    distance = np.abs(np.arange(size)[:, None] / spacing - (np.arange(num_points) - 1))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far)
