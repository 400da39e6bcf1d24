"""Linear interpolation of images in two and three dimensions at given voxel coordinates, the core of every warp."""

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
    """The images at `coordinates`, interpolated linearly along each axis.

    Outside, the image goes on as an endless grid of voxels of value `fill`, so it fades to `fill` within one voxel of
    its border: scipy.ndimage.map_coordinates(order=1, mode="grid-constant", cval=fill). A coordinate that is NaN gives
    NaN. At whole coordinates the image comes back exactly, if it is finite: a NaN or infinite voxel also spoils points
    that lie on its neighbours.

    Both gradients are exact. The one by the coordinates is 0 where an image is one voxel or more outside, and on the
    grid itself, where the image has a kink, it is that of the cell above (after the voxel, along each axis).

    Args:
      images: (N, *shape, C), shape of two or three axes. Half precision is computed in float32.
      coordinates: (N, *out_shape, D), in voxels, D the number of axes in shape, in their order: 0 is the centre of the
        first voxel of an axis and n - 1 that of the last. Any number of axes in out_shape.
      fill: scalar, finite.

    Returns:
      (N, *out_shape, C), of the dtype of `images`; float32 if that is no float.

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
    # By vmap rather than by one flat index: a batch split over devices is then resampled where it lies.
    result = _resample_padded_batch(padded, coordinates.astype(dtype))
    return result.astype(images.dtype if jnp.issubdtype(images.dtype, jnp.floating) else values.dtype)


def voxel_grid(shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """The voxel coordinates (*shape, D) of every voxel of a grid, at which `resample` gives back the image."""
    # On the device: as a host constant it would be compiled into every program that warps.
    return jnp.stack(jnp.meshgrid(*[jnp.arange(size, dtype=dtype) for size in shape], indexing="ij"), axis=-1)


def _resample_padded(image: Array, coordinates: Array) -> Array:
    """One image with a border of one voxel (*(shape + 2), C) at coordinates (*out_shape, D) that do not count it."""
    *shape, channels = image.shape
    voxels = image.reshape(-1, channels)
    strides = np.array([math.prod(shape[axis + 1 :]) for axis in range(len(shape))], np.int32)
    index, fractions = _cells(coordinates, shape, strides)

    # One corner of the cells after the other, and recomputed for the gradient: all at once takes five times the memory
    # and, on a CPU, seven times as long (benchmarks/bench_warp.py).
    @jax.checkpoint
    def corner_share(voxels: Array, fractions: list[Array], index: Array, is_upper: Array, step: Array) -> Array:
        weights = [jnp.where(up, fraction, 1 - fraction) for up, fraction in zip(is_upper, fractions, strict=True)]
        return functools.reduce(jnp.multiply, weights)[:, None] * voxels.at[index + step].get(mode="promise_in_bounds")

    def add_corner(total: Array, corner: tuple[Array, Array]) -> tuple[Array, None]:
        return total + corner_share(voxels, fractions, index, *corner), None

    corners = np.array(list(itertools.product((False, True), repeat=len(shape))))
    steps = jnp.asarray(corners @ strides)
    nothing = jnp.zeros_like(fractions[0][:, None] * voxels[:1])  # varies over devices as they do, for shard_map
    total, _ = jax.lax.scan(add_corner, nothing, (jnp.asarray(corners), steps))
    return total.reshape(*coordinates.shape[:-1], channels)


def _cells(coordinates: Array, shape: list[int], strides: np.ndarray) -> tuple[Array, list[Array]]:
    """The cell each point lies in: the index of its first voxel among those of the padded image, and how far in (D)."""
    index: Array = jnp.zeros((), jnp.int32)
    fractions = []
    for position, size, stride in zip(jnp.unstack(coordinates, axis=-1), shape, strides, strict=True):
        position = jnp.clip(position.reshape(-1), -1, size - 2)
        # Clipped again as an integer: not even a NaN may index outside. The last cell is closed on both sides.
        lower = jnp.clip(jnp.floor(position).astype(jnp.int32), -1, size - 3)
        index = index + (lower + 1) * stride
        fractions.append(position - lower.astype(position.dtype))
    return index, fractions


_resample_padded_batch = jax.jit(jax.vmap(_resample_padded))  # outside of a jit the scan would be compiled every time
