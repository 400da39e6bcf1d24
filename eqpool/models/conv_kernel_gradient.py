"""The kernel's gradient of a 3D convolution on a CPU, plane by plane. See `eqpool.models.conv_planes`, the plain form.

The gradient is a sum over voxels of (numbers under the taps)^T (cotangent). As a convolution, XLA first transposes the
whole volume, once per depth tap. Here one matrix product per plane adds to the sum, and its operands stay in the cache.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax


def kernel_gradient_by_plane(x, kernel, cotangent, *, strides, pads):
    """Computes the kernel's gradient, with three numbers in `strides` and three pairs in `pads`."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    by_plane = _by_input_plane if set(strides) == {1} else _by_output_plane
    return by_plane(x, kernel.shape, cotangent, strides)


def _by_input_plane(x, shape, cotangent, strides):
    """Unfolds height and width taps of the input, and depth taps of the cotangent.

    Both operands of the product are of about one width, so less is copied than if all taps were unfolded on one side.
    """
    depth, height, width, channels, features = shape
    cotangent = jnp.pad(cotangent, ((0, 0), (depth - 1, depth - 1), (0, 0), (0, 0), (0, 0)))

    def add_plane(total, index):
        plane = lax.dynamic_slice_in_dim(x, index, 1, axis=1)
        over = lax.dynamic_slice_in_dim(cotangent, index, depth, axis=1)
        voxels = _under_taps(plane, (height, width), strides[1:], cotangent.shape[2:4])
        # The last of the cotangent's planes has the input plane under its first tap.
        planes = jnp.concatenate([over[:, tap] for tap in reversed(range(depth))], axis=-1)
        return total + _product(voxels, planes), None

    nothing = jnp.zeros((height * width * channels, depth * features), x.dtype)
    total, _ = lax.scan(add_plane, nothing, jnp.arange(x.shape[1]))
    return total.reshape(height, width, channels, depth, features).transpose(3, 0, 1, 2, 4)


def _by_output_plane(x, shape, cotangent, strides):
    """Unfolds all taps of the input: at larger strides few voxels are under them."""
    depth, *taps, channels, features = shape

    def add_plane(total, index):
        planes = lax.dynamic_slice_in_dim(x, index * strides[0], depth, axis=1)
        plane = lax.dynamic_index_in_dim(cotangent, index, axis=1, keepdims=False)
        return total + _product(_under_taps(planes, taps, strides[1:], plane.shape[1:3]), plane), None

    nothing = jnp.zeros((depth * math.prod(taps) * channels, features), x.dtype)
    total, _ = lax.scan(add_plane, nothing, jnp.arange(cotangent.shape[1]))
    return total.reshape(shape)


def _under_taps(planes, taps, strides, size):
    """Gathers the numbers under the taps of each output voxel: (N, k_D, H, W, C) to (N, *size, k_D k_H k_W C)."""
    batch, depth, _, _, channels = planes.shape
    limits = [stride * (count - 1) + 1 for stride, count in zip(strides, size, strict=True)]
    shifted = [
        lax.slice(planes[:, d], (0, h, w, 0), (batch, h + limits[0], w + limits[1], channels), (1, *strides, 1))
        for d, h, w in itertools.product(range(depth), *map(range, taps))
    ]
    return jnp.concatenate(shifted, axis=-1)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Computes left^T right of (..., a) and (..., b) with the narrower first, which takes XLA down to a third."""
    left, right = (side.reshape(-1, side.shape[-1]) for side in (left, right))
    rows = (((0,), (0,)), ((), ()))
    if right.shape[1] < left.shape[1]:
        return lax.dot_general(right, left, rows).T
    return lax.dot_general(left, right, rows)
