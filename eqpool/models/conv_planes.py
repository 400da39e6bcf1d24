"""3D convolution for a CPU, composed of 2D convolutions of planes. See `eqpool.models.conv` for the reason.

All times are from two cores of an AMD EPYC with jax 0.10.2.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

# Up to this many input channels, one 2D convolution with the depth taps folded into channels is faster than one per tap
# (110 against 330 ms for the stem at 91x109x91, batch 4, two cores). With more channels the copy costs more than it
# saves.
_MOST_CHANNELS_TO_FOLD = 4
# Up to this many output channels, at stride 1, the taps are folded into features instead. For 8 -> 1 channels at 64^3,
# batch 2, the forward pass and both gradients take 34 + 22 + 28 against 71 + 76 + 84 ms. For 16 -> 8 channels folding
# is slower.
_MOST_FEATURES_TO_FOLD = 2
# From this many numbers in the input, and up to 27 taps, the kernel's gradient of a strided convolution is computed
# plane by plane. For 64^3 x 32 to 64 channels, batch 2, it takes 270 against 560 ms of processor time. For
# 32^3 x 64 to 128 channels both ways take the same time.
_FEWEST_NUMBERS_BY_PLANE, _MOST_TAPS_BY_PLANE = 2**22, 27

_DIMENSIONS_2D = ("NHWC", "HWIO", "NHWC")


def planes_forward(x, kernel, *, strides, pads):
    """Computes the convolution in float32 at least, with three numbers in `strides` and three pairs in `pads`."""
    planes_conv = _best_form(kernel, strides)
    return planes_conv(_single(x), _single(kernel), strides=strides, pads=pads).astype(x.dtype)


def planes_backward(x, kernel, cotangent, *, strides, pads):
    """Computes the gradients in x and in the kernel.

    They are separate, so that XLA can drop an unused one, such as the gradient of the stem in the image.
    """
    operands = _single(x), _single(kernel), _single(cotangent)
    gradient_x = _gradient_in_x(*operands, strides=strides, pads=pads)
    gradient_kernel = _gradient_in_kernel(*operands, strides=strides, pads=pads)
    return gradient_x.astype(x.dtype), gradient_kernel.astype(kernel.dtype)


def _gradient_in_x(x, kernel, cotangent, **shape):
    _, pullback = jax.vjp(lambda operand: _best_form(kernel, shape["strides"])(operand, kernel, **shape), x)
    return pullback(cotangent)[0]


def _gradient_in_kernel(x, kernel, cotangent, **shape):
    form = _best_form(kernel, shape["strides"])
    if form is _sum_over_depth_taps and _goes_by_plane(x, kernel, shape["strides"]):
        return _gradient_in_kernel_by_plane(x, kernel, cotangent, **shape)
    # Folding taps into channels makes the kernel's gradient slower (230 against 170 ms for the stem).
    form = _sum_over_depth_taps if form is _depth_taps_as_channels else form
    _, pullback = jax.vjp(lambda operand: form(x, operand, **shape), kernel)
    return pullback(cotangent)[0]


def _gradient_in_kernel_by_plane(x, kernel, cotangent, *, strides, pads):
    """Computes the kernel's gradient as a sum over output planes of (voxels under each tap)^T (cotangent).

    Each plane takes one matrix product. For a convolution XLA first transposes the whole volume, once per depth tap. At
    stride 2 the voxels under the taps are few enough to be copied instead, and those of one plane stay in the cache. At
    stride 1 there is no gain.
    """
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    planes, cotangents = jnp.moveaxis(x, 1, 0), jnp.moveaxis(cotangent, 1, 0)
    depth, *taps, channels, features = kernel.shape

    def add_plane(total, index_and_cotangent):
        index, cotangent = index_and_cotangent
        under = lax.dynamic_slice_in_dim(planes, index * strides[0], depth, axis=0)
        patches = [_under_taps(plane, taps, strides[1:], cotangent.shape[1:3]) for plane in under]
        voxels = jnp.concatenate(patches, axis=-1).reshape(-1, depth * math.prod(taps) * channels)
        return total + voxels.T @ cotangent.reshape(-1, features), None

    nothing = jnp.zeros((depth * math.prod(taps) * channels, features), x.dtype)
    total, _ = lax.scan(add_plane, nothing, (jnp.arange(len(cotangents)), cotangents))
    return total.reshape(kernel.shape)


def _under_taps(plane, taps, strides, size):
    """Gathers the input voxels under the taps of each output voxel: (N, H, W, C) to (N, *size, k_H k_W C)."""
    batch, _, _, channels = plane.shape
    limits = [stride * (count - 1) + 1 for stride, count in zip(strides, size, strict=True)]
    shifted = [
        lax.slice(plane, (0, h, w, 0), (batch, h + limits[0], w + limits[1], channels), (1, *strides, 1))
        for h, w in itertools.product(*map(range, taps))
    ]
    return jnp.concatenate(shifted, axis=-1)


def _best_form(kernel, strides):
    channels, features = kernel.shape[3:]
    if channels <= _MOST_CHANNELS_TO_FOLD:
        return _depth_taps_as_channels
    if features <= _MOST_FEATURES_TO_FOLD and strides[0] == 1:
        return _depth_taps_as_features
    return _sum_over_depth_taps


def _goes_by_plane(x, kernel, strides):
    few_taps = math.prod(kernel.shape[:3]) <= _MOST_TAPS_BY_PLANE
    return min(strides) > 1 and few_taps and x.size >= _FEWEST_NUMBERS_BY_PLANE


def _sum_over_depth_taps(x, kernel, *, strides, pads):
    taps = _depth_taps(x, kernel.shape[0], strides[0], pads[0])
    return sum(_conv_planes(tap, kernel[t], strides[1:], pads[1:]) for t, tap in enumerate(taps))


def _depth_taps_as_channels(x, kernel, *, strides, pads):
    depth, height, width, channels, features = kernel.shape
    stacked = jnp.concatenate(_depth_taps(x, depth, strides[0], pads[0]), axis=-1)
    folded = kernel.transpose(1, 2, 0, 3, 4).reshape(height, width, depth * channels, features)
    return _conv_planes(stacked, folded, strides[1:], pads[1:])


def _depth_taps_as_features(x, kernel, *, strides, pads):
    depth, height, width, channels, features = kernel.shape
    folded = kernel.transpose(1, 2, 3, 0, 4).reshape(height, width, channels, depth * features)
    planes = _conv_planes(x, folded, strides[1:], pads[1:])
    maps = [planes[..., tap * features : (tap + 1) * features] for tap in range(depth)]
    return sum(_depth_taps(one, depth, strides[0], pads[0])[tap] for tap, one in enumerate(maps))


def _depth_taps(x, kernel_depth, stride, pads):
    """Returns the planes under each depth tap, as kernel_depth arrays (N, D', H, W, C)."""
    low, high = pads
    x = jnp.pad(x, ((0, 0), (low, high), (0, 0), (0, 0), (0, 0)))
    span = x.shape[1] - kernel_depth + 1
    return [lax.slice_in_dim(x, tap, tap + span, stride, axis=1) for tap in range(kernel_depth)]


def _conv_planes(x, kernel, strides, pads):
    """Convolves every plane in 2D: (N, D', H, W, C) -> (N, D', H', W', features)."""
    batch, depth = x.shape[:2]
    planes = x.reshape(batch * depth, *x.shape[2:])
    out = lax.conv_general_dilated(planes, kernel, strides, pads, dimension_numbers=_DIMENSIONS_2D)
    return out.reshape(batch, depth, *out.shape[1:])


def _single(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
