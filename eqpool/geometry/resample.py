"""Linear interpolation of 2D and 3D images at given voxel coordinates, on which every warp is built."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.ops.arguments import check_shape
from eqpool.ops.numerics import as_float


def resample(images: ArrayLike, coordinates: ArrayLike, *, fill: ArrayLike = 0.0) -> Array:
    """Interpolates images linearly at `coordinates`.

    Outside the image all voxels have the value `fill`, so the image fades to `fill` within one voxel of its border, as
    in scipy.ndimage.map_coordinates(order=1, mode="grid-constant", cval=fill). A NaN coordinate gives NaN. At whole
    coordinates the result is exactly the image if the image is finite. A NaN or infinite voxel also affects points that
    lie on its neighbours.

    Both gradients are exact. The gradient with respect to the coordinates is 0 for points one voxel or more outside the
    image. On the grid, where the interpolant has a kink, it is that of the cell after the voxel along each axis.

    Args:
      images: (N, *shape, C), with two or three axes in shape. Half precision is computed in float32.
      coordinates: (N, *out_shape, D), in voxels, with D the number of axes in shape and in their order. 0 is the centre
        of an axis's first voxel and n - 1 the centre of its last. out_shape has any number of axes.
      fill: finite scalar.

    Returns:
      (N, *out_shape, C) in the dtype of `images`, or float32 if that is not a float dtype.

    Raises:
      ValueError: shapes that do not go together.
    """
    images, coordinates, fill = jnp.asarray(images), as_float(coordinates), as_float(fill)
    dimensions = images.ndim - 2
    if dimensions not in (2, 3):
        raise ValueError(f"images has shape {images.shape}, expected (N, *shape, C) with two or three axes in shape")
    check_shape("coordinates", coordinates, (images.shape[0], ..., dimensions), f", for images of shape {images.shape}")
    if fill.ndim:
        raise ValueError(f"fill has shape {fill.shape}, expected a scalar")
    values = as_float(images)
    dtype = np.promote_types(values.dtype, coordinates.dtype)
    border = ((0, 0, 0), *((1, 1, 0),) * dimensions, (0, 0, 0))
    padded = jax.lax.pad(values.astype(dtype), fill.astype(dtype), border)
    # With vmap instead of one flat index, each device resamples its own part of a batch that is split over devices.
    result = _resample_padded_batch(padded, coordinates.astype(dtype))
    return result.astype(images.dtype if jnp.issubdtype(images.dtype, jnp.floating) else values.dtype)


def voxel_grid(shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Returns the coordinates (*shape, D) of every voxel of a grid, at which `resample` returns the image itself."""
    # Computed on the device, because a host constant would be compiled into every program that warps.
    return jnp.stack(jnp.meshgrid(*[jnp.arange(size, dtype=dtype) for size in shape], indexing="ij"), axis=-1)


def _resample_padded(image: Array, coordinates: Array) -> Array:
    """Interpolates one image with a border of one voxel, (*(shape + 2), C), at coordinates (*out_shape, D).

    The coordinates are those of the image without its border.
    """
    *shape, channels = image.shape
    voxels = image.reshape(-1, channels)
    strides = np.array([math.prod(shape[axis + 1 :]) for axis in range(len(shape))], np.int32)
    index, fractions = _cells(coordinates, shape, strides)

    # The corners of the cells are added one after the other and recomputed for the gradient. All at once takes five
    # times the memory and, on a CPU, seven times as long (benchmarks/bench_warp.py).
    @jax.checkpoint
    def corner_share(voxels: Array, fractions: list[Array], index: Array, is_upper: Array, step: Array) -> Array:
        weights = [jnp.where(up, fraction, 1 - fraction) for up, fraction in zip(is_upper, fractions, strict=True)]
        return functools.reduce(jnp.multiply, weights)[:, None] * voxels.at[index + step].get(mode="promise_in_bounds")

    def add_corner(total: Array, corner: tuple[Array, Array]) -> tuple[Array, None]:
        return total + corner_share(voxels, fractions, index, *corner), None

    corners = np.array(list(itertools.product((False, True), repeat=len(shape))))
    steps = jnp.asarray(corners @ strides)
    nothing = jnp.zeros_like(fractions[0][:, None] * voxels[:1])  # varies over devices like the corners, for shard_map
    total, _ = jax.lax.scan(add_corner, nothing, (jnp.asarray(corners), steps))
    return total.reshape(*coordinates.shape[:-1], channels)


def _cells(coordinates: Array, shape: list[int], strides: np.ndarray) -> tuple[Array, list[Array]]:
    """Finds the cell of each point.

    Returns:
      The index of the cell's first voxel in the flattened padded image, and the position within the cell along each of
      the D axes, from 0 to 1.
    """
    index: Array = jnp.zeros((), jnp.int32)
    fractions = []
    for position, size, stride in zip(jnp.unstack(coordinates, axis=-1), shape, strides, strict=True):
        position = jnp.clip(position.reshape(-1), -1, size - 2)
        # Clipped again as an integer, so that not even a NaN indexes outside. The last cell is closed on both sides.
        lower = jnp.clip(jnp.floor(position).astype(jnp.int32), -1, size - 3)
        index = index + (lower + 1) * stride
        fractions.append(position - lower.astype(position.dtype))
    return index, fractions


_resample_padded_batch = jax.jit(jax.vmap(_resample_padded))  # without this jit the scan would be compiled every time
