"""Affine maps in two and three dimensions, in the parameters of an affine spatial transformer.

Coordinates are normalised and in the order of the array's axes. Along each axis -1 is the centre of the first voxel and
+1 the centre of the last. An axis of a single voxel has the coordinate 0 only, and nothing moves along it. If the axes
of an image differ in length, a rotation of normalised coordinates is a rotation of voxels between two stretches.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.geometry.resample import voxel_grid
from eqpool.ops.arguments import check_shape
from eqpool.ops.numerics import as_float, einsum, matmul


def rotation_matrix(angles: ArrayLike) -> Array:
    """Computes the rotation matrix of `angles`.

    In 2D it rotates axis 0 towards axis 1. In 3D it is R_0(a_0) R_1(a_1) R_2(a_2), and R_2 acts first. R_k is a
    right-handed rotation about array axis k: R_0 rotates axis 1 towards axis 2, R_1 axis 2 towards axis 0, and R_2
    axis 0 towards axis 1.

    The published affine STN (Robinson et al. 2020) rotates about z, x and z again. Near zero, where training starts,
    two of its angles have the same effect and none rotates about y. Therefore this function uses three different axes.

    Args:
      angles: (..., 1) in 2D or (..., 3) in 3D, in radians.

    Returns:
      (..., 2, 2) or (..., 3, 3), exactly the identity at zero.

    Raises:
      ValueError: `angles` has another shape.
    """
    angles = as_float(angles)
    planes = {1: [(2, 0, 1)], 3: [(3, 1, 2), (3, 2, 0), (3, 0, 1)]}.get(angles.shape[-1] if angles.ndim else 0)
    if planes is None:
        raise ValueError(f"angles has shape {angles.shape}, expected (..., 1) in the plane or (..., 3) in space")
    first, *others = (_plane_rotation(angles[..., k], *plane) for k, plane in enumerate(planes))
    for other in others:
        first = matmul(first, other)
    return first


def affine_matrix(translation: ArrayLike, rotation: ArrayLike, log_scale: ArrayLike, shear: ArrayLike) -> Array:
    """Computes the affine map x -> S exp(log_scale) S^T R (x + translation).

    R is the rotation by `rotation` and S the rotation by `shear`. `log_scale` thus stretches along orthogonal axes that
    `shear` rotates away from the array's axes. This is the affine transformer of ISTN, shear . scale . shear^T .
    rotation . translation (Robinson et al. 2020; docs/method.md, section 9).

    A warp uses the map as a pull-back, output(x) = image(matrix x), so the image itself moves by the inverse. The map
    is exactly the identity if all parameters but `shear` are zero.

    Args:
      translation: (..., D), D = 2 or 3, in normalised units. The outermost voxel centres are 2 apart.
      rotation: (..., 1) if D = 2, (..., 3) if D = 3, in radians, see `rotation_matrix`.
      log_scale: (..., D), natural logarithms of the stretches.
      shear: angles of S, as `rotation`.

    Returns:
      (..., D, D + 1), the linear part with the offset as last column.

    Raises:
      ValueError: shapes that do not go together. The leading axes must be equal.
    """
    translation, log_scale = as_float(translation), as_float(log_scale)
    dimensions = translation.shape[-1] if translation.ndim else 0
    if dimensions not in (2, 3):
        raise ValueError(f"translation has shape {translation.shape}, expected (..., 2) or (..., 3)")
    num_angles = 1 if dimensions == 2 else 3
    rotation, shear = as_float(rotation), as_float(shear)
    for name, value, last in (
        ("rotation", rotation, num_angles),
        ("log_scale", log_scale, dimensions),
        ("shear", shear, num_angles),
    ):
        check_shape(name, value, (*translation.shape[:-1], last), f" for translation {translation.shape}")
    axes = rotation_matrix(shear)
    # I + S (scale - 1) S^T instead of S scale S^T, because it is exact where the scale is 1.
    stretch = einsum("...ik,...k,...jk->...ij", axes, jnp.expm1(log_scale), axes) + _identity(axes)
    linear = matmul(stretch, rotation_matrix(rotation))
    return _with_offset(linear, einsum("...ij,...j->...i", linear, translation))


def invert_affine(matrix: ArrayLike) -> Array:
    """Inverts affine maps (..., D, D + 1) in closed form. The result is not finite if there is no inverse.

    Raises:
      ValueError: `matrix` has another shape.
    """
    linear, offset = _linear_and_offset("matrix", matrix)
    # Cofactors are exact enough at these sizes and take one pass over a batch. A solve calls LAPACK for each matrix.
    if linear.shape[-1] == 2:
        a, b, c, d = (linear[..., i, j] for i in (0, 1) for j in (0, 1))
        adjugate = jnp.stack([jnp.stack([d, -b], axis=-1), jnp.stack([-c, a], axis=-1)], axis=-2)
        determinant = a * d - b * c
    else:
        a, b, c = jnp.moveaxis(linear, -2, 0)
        adjugate = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=-1)
        determinant = jnp.sum(a * adjugate[..., 0], axis=-1)
    inverse = adjugate / determinant[..., None, None]
    return _with_offset(inverse, -einsum("...ij,...j->...i", inverse, offset))


def compose_affine(outer: ArrayLike, inner: ArrayLike) -> Array:
    """Computes the affine map x -> outer(inner(x)). All three have shape (..., D, D + 1).

    Warps pull back, so a warp by `compose_affine(outer, inner)` equals a warp by `outer` followed by one by `inner`.

    Raises:
      ValueError: the shapes differ or are not those of affine maps.
    """
    outer_linear, outer_offset = _linear_and_offset("outer", outer)
    inner_linear, inner_offset = _linear_and_offset("inner", inner)
    check_shape("inner", jnp.asarray(inner), jnp.shape(outer), ", the shape of outer")
    offset = einsum("...ij,...j->...i", outer_linear, inner_offset) + outer_offset
    return _with_offset(matmul(outer_linear, inner_linear), offset)


def affine_displacement(matrix: ArrayLike, shape: Sequence[int]) -> Array:
    """Computes the displacement of every voxel of a grid under `matrix`, exactly 0 for the identity.

    Args:
      matrix: (..., D, D + 1), in normalised coordinates.
      shape: numbers of voxels along the D axes of the grid.

    Returns:
      (..., *shape, D), in voxels.

    Raises:
      ValueError: shapes that do not go together.
    """
    linear, offset = _linear_and_offset("matrix", matrix)
    if len(shape) != linear.shape[-1]:
        raise ValueError(f"shape is {tuple(shape)}, expected {linear.shape[-1]} axes for matrix {jnp.shape(matrix)}")
    half = jnp.asarray([(size - 1) / 2 for size in shape], linear.dtype)
    voxels = voxel_grid(shape, linear.dtype).reshape(-1, len(shape))
    positions = (voxels - half[None]) / jnp.maximum(half, 0.5)[None]
    # The identity is subtracted before the product with coordinates, so that no digits cancel.
    moves = einsum("...ij,pj->...pi", linear - _identity(linear), positions) + offset[..., None, :]
    return (moves * half[(None,) * (moves.ndim - 1)]).reshape(*offset.shape[:-1], *shape, len(shape))


def _plane_rotation(angle: Array, dimensions: int, source: int, target: int) -> Array:
    """Computes the rotation (..., D, D) of axis `source` towards axis `target`."""
    turn = np.zeros((dimensions, dimensions), angle.dtype)
    turn[target, source], turn[source, target] = 1, -1
    plane = -turn @ turn
    axis = np.eye(dimensions, dtype=angle.dtype) - plane
    lead = (None,) * angle.ndim
    return axis[lead] + jnp.cos(angle)[..., None, None] * plane[lead] + jnp.sin(angle)[..., None, None] * turn[lead]


def _identity(linear: Array) -> Array:
    """Returns the identity (1, ..., D, D) in the rank and dtype of `linear`."""
    return jnp.eye(linear.shape[-1], dtype=linear.dtype)[(None,) * (linear.ndim - 2)]


def _with_offset(linear: Array, offset: Array) -> Array:
    return jnp.concatenate([linear, offset[..., None]], axis=-1)


def _linear_and_offset(name: str, matrix: ArrayLike) -> tuple[Array, Array]:
    matrix = as_float(matrix)
    if matrix.shape[-2:] not in ((2, 3), (3, 4)):
        raise ValueError(f"{name} has shape {matrix.shape}, expected (..., 2, 3) or (..., 3, 4)")
    return matrix[..., :-1], matrix[..., -1]
