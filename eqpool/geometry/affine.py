"""Affine maps of the plane and of space, in the parameters of an affine spatial transformer.

Coordinates are normalised: along every axis -1 is the centre of the first voxel and +1 that of the last, in the order
of the array's axes. An axis of a single voxel has the one coordinate 0, and nothing moves along it. Where the axes of
an image differ in length, a rotation of normalised coordinates is a rotation of voxels between two stretches.
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
    """The rotation by `angles`.

    In the plane it takes axis 0 towards axis 1. In space it is R_0(a_0) R_1(a_1) R_2(a_2), where R_k is right-handed
    about array axis k (R_0 takes axis 1 towards axis 2, R_1 axis 2 towards 0, R_2 axis 0 towards 1) and R_2 acts first.
    The published affine STN turns about z, x and z again: near zero, where training starts, two of its angles do the
    same and no angle turns about y, so it is not followed in that.

    Args:
      angles: (..., 1) in the plane or (..., 3) in space, radians.

    Returns:
      (..., 2, 2) or (..., 3, 3), exactly the identity at zero.

    Raises:
      ValueError: another shape.
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
    """The map x -> S exp(log_scale) S^T R (x + translation), R the rotation by `rotation` and S that by `shear`.

    So `log_scale` stretches along orthogonal axes that `shear` turns away from the array's: the affine transformer of
    ISTN (Robinson et al. 2020; docs/method.md, section 9), shear . scale . shear^T . rotation . translation. A warp
    reads it as a pull-back: output(x) = image(matrix x), so that the image itself moves by the inverse. All zero gives
    exactly the identity, and so does `shear` alone.

    Args:
      translation: (..., D), D = 2 or 3, in normalised units: 2 is the distance between the outermost voxel centres.
      rotation: (..., 1) if D = 2, (..., 3) if D = 3, radians; see `rotation_matrix`.
      log_scale: (..., D), natural logarithms of the stretches.
      shear: as `rotation`.

    Returns:
      (..., D, D + 1), the linear part and, as last column, the offset.

    Raises:
      ValueError: shapes that do not go together; the leading axes must be the same.
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
    # I + S (scale - 1) S^T rather than S scale S^T: exact where the scale is 1.
    stretch = einsum("...ik,...k,...jk->...ij", axes, jnp.expm1(log_scale), axes) + _identity(axes)
    linear = matmul(stretch, rotation_matrix(rotation))
    return _with_offset(linear, einsum("...ij,...j->...i", linear, translation))


def invert_affine(matrix: ArrayLike) -> Array:
    """The affine map (..., D, D + 1) that undoes `matrix` (..., D, D + 1), in closed form; not finite if there is none.

    Raises:
      ValueError: another shape.
    """
    linear, offset = _linear_and_offset("matrix", matrix)
    # By cofactors, for these sizes exact enough and one pass over a batch, where a solve calls LAPACK for each matrix.
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
    """The affine map x -> outer(inner(x)), (..., D, D + 1) as both are.

    Warps pull back, so warping by `compose_affine(outer, inner)` is warping by `outer` first and by `inner` then.

    Raises:
      ValueError: shapes that are no affine maps or differ.
    """
    outer_linear, outer_offset = _linear_and_offset("outer", outer)
    inner_linear, inner_offset = _linear_and_offset("inner", inner)
    check_shape("inner", jnp.asarray(inner), jnp.shape(outer), ", the shape of outer")
    offset = einsum("...ij,...j->...i", outer_linear, inner_offset) + outer_offset
    return _with_offset(matmul(outer_linear, inner_linear), offset)


def affine_displacement(matrix: ArrayLike, shape: Sequence[int]) -> Array:
    """How far `matrix` takes every voxel of a grid of `shape`: exactly 0 for the identity.

    Args:
      matrix: (..., D, D + 1), in normalised coordinates.
      shape: D numbers of voxels.

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
    # The identity is taken off before it meets a coordinate, so that nothing has to cancel.
    moves = einsum("...ij,pj->...pi", linear - _identity(linear), positions) + offset[..., None, :]
    return (moves * half[(None,) * (moves.ndim - 1)]).reshape(*offset.shape[:-1], *shape, len(shape))


def _plane_rotation(angle: Array, dimensions: int, source: int, target: int) -> Array:
    """The rotation (..., D, D) that takes axis `source` towards axis `target`."""
    turn = np.zeros((dimensions, dimensions), angle.dtype)
    turn[target, source], turn[source, target] = 1, -1
    plane = -turn @ turn
    axis = np.eye(dimensions, dtype=angle.dtype) - plane
    lead = (None,) * angle.ndim
    return axis[lead] + jnp.cos(angle)[..., None, None] * plane[lead] + jnp.sin(angle)[..., None, None] * turn[lead]


def _identity(linear: Array) -> Array:
    """The identity (1, ..., D, D), of the rank and dtype of `linear`."""
    return jnp.eye(linear.shape[-1], dtype=linear.dtype)[(None,) * (linear.ndim - 2)]


def _with_offset(linear: Array, offset: Array) -> Array:
    return jnp.concatenate([linear, offset[..., None]], axis=-1)


def _linear_and_offset(name: str, matrix: ArrayLike) -> tuple[Array, Array]:
    matrix = as_float(matrix)
    if matrix.shape[-2:] not in ((2, 3), (3, 4)):
        raise ValueError(f"{name} has shape {matrix.shape}, expected (..., 2, 3) or (..., 3, 4)")
    return matrix[..., :-1], matrix[..., -1]
