"""Warps of images by affine maps and displacement fields, and the local properties of a field.

Images are (N, *shape, C) and fields (..., *shape, D), D = 2 or 3, in voxels along the axes of the array. All warps pull
back, so the output at x is the image at x + u(x).
"""

import itertools
from typing import cast

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from eqpool.geometry.affine import (
    affine_displacement,
    affine_matrix,
    compose_affine,
    invert_affine,
    rotation_matrix,
)
from eqpool.geometry.bspline import bspline_control_shape, bspline_displacement
from eqpool.geometry.resample import resample, voxel_grid
from eqpool.ops.arguments import check_shape
from eqpool.ops.numerics import as_float

__all__ = [
    "affine_displacement",
    "affine_matrix",
    "bending_energy",
    "bspline_control_shape",
    "bspline_displacement",
    "compose_affine",
    "folding_count",
    "invert_affine",
    "jacobian_determinant",
    "resample",
    "rotation_matrix",
    "voxel_grid",
    "warp_affine",
    "warp_displacement",
]


def warp_affine(images: ArrayLike, matrix: ArrayLike, *, fill: ArrayLike = 0.0) -> Array:
    """Warps images by affine maps: output(x) = image(matrix x), in normalised coordinates.

    The identity returns exactly the image.

    Args:
      images: (N, *shape, C).
      matrix: (N, D, D + 1), see `affine_matrix`.
      fill: value outside of the image, see `resample`.

    Returns:
      (N, *shape, C), in the dtype of `images`.

    Raises:
      ValueError: shapes that do not go together.
    """
    shape = _image_shape(images)
    expected = (jnp.shape(images)[0], len(shape), len(shape) + 1)
    matrix = as_float(matrix)
    check_shape("matrix", matrix, expected, f" for images {jnp.shape(images)}")
    return warp_displacement(images, affine_displacement(matrix, shape), fill=fill)


def warp_displacement(images: ArrayLike, displacement: ArrayLike, *, fill: ArrayLike = 0.0) -> Array:
    """Warps images by displacement fields: output(x) = image(x + displacement(x)).

    A field of zeros returns exactly the image.

    Args:
      images: (N, *shape, C).
      displacement: (N, *shape, D), in voxels.
      fill: value outside of the image, see `resample`.

    Returns:
      (N, *shape, C), in the dtype of `images`.

    Raises:
      ValueError: shapes that do not go together.
    """
    shape, displacement = _image_shape(images), as_float(displacement)
    check_shape("displacement", displacement, (*jnp.shape(images)[:-1], len(shape)), f" for images {jnp.shape(images)}")
    return resample(images, voxel_grid(shape, displacement.dtype)[None] + displacement, fill=fill)


def jacobian_determinant(displacement: ArrayLike) -> Array:
    """Computes det(I + du/dx), the factor by which the map x -> x + u(x) changes volume, at every voxel.

    The determinant is 0 or negative where the map folds. Derivatives are central differences, one-sided at the borders,
    and exact for an affine field. The derivative along an axis of a single voxel is 0.

    Args:
      displacement: (..., *shape, D), in voxels.

    Returns:
      (..., *shape).

    Raises:
      ValueError: D is not 2 or 3, or there are fewer axes before it.
    """
    displacement, axes = _field(displacement)
    columns = [_derivative(displacement, axis) for axis in axes]
    jacobian = jnp.stack(columns, axis=-1)
    identity = jnp.eye(len(axes), dtype=jacobian.dtype)[(None,) * (jacobian.ndim - 2)]
    return jnp.linalg.det(jacobian + identity)


def folding_count(displacement: ArrayLike) -> Array:
    """Counts the voxels whose `jacobian_determinant` is not above 0, (...,) int32 for a field (..., *shape, D).

    Raises:
      ValueError: as for `jacobian_determinant`.
    """
    displacement, axes = _field(displacement)
    return jnp.sum(jacobian_determinant(displacement) <= 0, axis=axes, dtype=jnp.int32)


def bending_energy(displacement: ArrayLike) -> Array:
    """Computes the mean over voxels of the sum over axes i, j and components d of (d^2 u_d / dx_i dx_j)^2.

    This is the smoothness term of Rueckert et al. 1999, in whose sum a mixed derivative counts twice. It is 0 for an
    affine field. Derivatives are finite differences, and each term is a mean over the places where its stencil fits.
    The stencil is u[-1] - 2 u[0] + u[1] for i = j, and u[1, 1] - u[1, 0] - u[0, 1] + u[0, 0], at the middle of four
    voxels, for i != j. An axis that is too short for a stencil adds nothing.

    Args:
      displacement: (..., *shape, D), in voxels.

    Returns:
      (...,), in 1 / voxels^2.

    Raises:
      ValueError: D is not 2 or 3, or there are fewer axes before it.
    """
    displacement, axes = _field(displacement)
    energy = jnp.zeros_like(displacement, shape=displacement.shape[: axes[0]])
    for i, j in itertools.combinations_with_replacement(axes, 2):
        second = jnp.diff(jnp.diff(displacement, axis=i), axis=j)
        if second.size:
            energy = energy + (1 if i == j else 2) * jnp.mean(jnp.sum(second**2, axis=-1), axis=axes)
    return energy


def _derivative(displacement: Array, axis: int) -> Array:
    if displacement.shape[axis] == 1:
        return jnp.zeros_like(displacement)
    return cast(Array, jnp.gradient(displacement, axis=axis))


def _image_shape(images: ArrayLike) -> tuple[int, ...]:
    shape = jnp.shape(images)
    if len(shape) not in (4, 5):
        raise ValueError(f"images has shape {shape}, expected (N, *shape, C) with two or three axes in shape")
    return shape[1:-1]


def _field(displacement: ArrayLike) -> tuple[Array, tuple[int, ...]]:
    """Returns the field and its spatial axes."""
    displacement = as_float(displacement)
    dimensions = displacement.shape[-1] if displacement.ndim else 0
    if dimensions not in (2, 3) or displacement.ndim < dimensions + 1:
        raise ValueError(
            f"displacement has shape {displacement.shape}, expected (..., *shape, D) with D = 2 or 3 axes in shape"
        )
    return displacement, tuple(range(displacement.ndim - 1 - dimensions, displacement.ndim - 1))
