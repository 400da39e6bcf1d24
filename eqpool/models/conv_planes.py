"""3D convolution for a CPU, composed of 2D convolutions of planes. See `eqpool.models.conv` for the reason.

All times are from jax 0.10.2, and from two cores of an AMD EPYC where nothing else is said.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from eqpool.models.conv_kernel_gradient import kernel_gradient_by_plane
from eqpool.models.conv_phases import phases_forward, phases_kernel_gradient

# Up to this many input channels, one 2D convolution with the depth taps folded into channels is faster than one per tap
# (110 against 330 ms for the stem at 91x109x91, batch 4, two cores). With more channels the copy costs more than it
# saves.
_MOST_CHANNELS_TO_FOLD = 4
# With as few channels, strides above 1 and this many taps an axis, the forward pass and the kernel's gradient go phase
# by phase. For the stem on one core of an Intel Xeon with AVX-512, 134 + 168 against 176 + 248 ms at 91x109x91,
# batch 4, and 80 + 130 against 131 + 161 ms at 50x59x48, batch 16.
_FEWEST_TAPS_BY_PHASE = 5
# Up to this many output channels, at stride 1, the taps are folded into features instead, and one 2D convolution does
# the work of three. On one core of an Intel Xeon with AVX-512, forward: 8 -> 8 channels at 25x30x24, batch 16, 23
# against 67 ms; 16 -> 16 at 22x27x22, batch 4, 7 against 13 ms. For 16 -> 64 both take the same time.
_MOST_FEATURES_TO_FOLD = 32
# From this many numbers in the input, and up to 27 taps, the kernel's gradient is computed plane by plane. On the same
# core: 16 -> 64 channels at 32^3, batch 2, 53 against 132 ms; 16 -> 16 at 22x27x22, batch 4, 21 against 33 ms; for
# 12x14x11, batch 16, both take the same time, and the plain form compiles in half the time. At stride 2 it pays later.
_FEWEST_NUMBERS_BY_PLANE, _FEWEST_NUMBERS_STRIDED, _MOST_TAPS_BY_PLANE = 2**19, 2**22, 27

_DIMENSIONS_2D = ("NHWC", "HWIO", "NHWC")


def planes_forward(x, kernel, *, strides, pads):
    """Computes the convolution in float32 at least, with three numbers in `strides` and three pairs in `pads`."""
    planes_conv = phases_forward if _goes_by_phase(kernel, strides) else _best_form(kernel, strides)
    return planes_conv(_single(x), _single(kernel), strides=strides, pads=pads).astype(x.dtype)


def planes_backward(x, kernel, cotangent, *, strides, pads):
    """Computes the gradients in x and in the kernel.

    They are separate, so that XLA can drop an unused one, such as the gradient of the stem in the image.
    """
    operands = _single(x), _single(kernel), _single(cotangent)
    gradient_x = _gradient_in_x(*operands, strides=strides, pads=pads)
    gradient_kernel = _gradient_in_kernel(*operands, strides=strides, pads=pads)
    return gradient_x.astype(x.dtype), gradient_kernel.astype(kernel.dtype)


def _gradient_in_x(x, kernel, cotangent, *, strides, pads):
    turned_pads = _turned_pads(kernel, pads)
    if set(strides) == {1} and min(map(min, turned_pads)) >= 0:
        # A convolution of the cotangent with the kernel turned around, in the form that is best for it.
        turned = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
        return _best_form(turned, strides)(cotangent, turned, strides=strides, pads=turned_pads)
    form = _best_form(kernel, strides)
    _, pullback = jax.vjp(lambda operand: form(operand, kernel, strides=strides, pads=pads), x)
    return pullback(cotangent)[0]


def _turned_pads(kernel, pads):
    return tuple((taps - 1 - low, taps - 1 - high) for taps, (low, high) in zip(kernel.shape[:3], pads, strict=True))


def _gradient_in_kernel(x, kernel, cotangent, **shape):
    if _goes_by_phase(kernel, shape["strides"]):
        return phases_kernel_gradient(x, kernel, cotangent, **shape)
    if _goes_by_plane(x, kernel, shape["strides"]):
        return kernel_gradient_by_plane(x, kernel, cotangent, **shape)
    # Folding taps makes the kernel's gradient slower (249 against 96 ms for 8 -> 8 channels), except for few features
    # (28 against 84 ms for 8 -> 1 channels at 64^3, batch 2, two cores).
    form = _best_form(kernel, shape["strides"])
    if form is not _depth_taps_as_features or kernel.shape[4] > 2:
        form = _sum_over_depth_taps
    _, pullback = jax.vjp(lambda operand: form(x, operand, **shape), kernel)
    return pullback(cotangent)[0]


def _best_form(kernel, strides):
    channels, features = kernel.shape[3:]
    if channels <= _MOST_CHANNELS_TO_FOLD:
        return _depth_taps_as_channels
    if features <= _MOST_FEATURES_TO_FOLD and strides[0] == 1:
        return _depth_taps_as_features
    return _sum_over_depth_taps


def _goes_by_phase(kernel, strides):
    return (
        kernel.shape[3] <= _MOST_CHANNELS_TO_FOLD
        and min(strides) > 1
        and min(kernel.shape[:3]) >= _FEWEST_TAPS_BY_PHASE
    )


def _goes_by_plane(x, kernel, strides):
    channels, features = kernel.shape[3:]
    if math.prod(kernel.shape[:3]) > _MOST_TAPS_BY_PLANE or min(channels, features) <= _MOST_CHANNELS_TO_FOLD:
        return False
    fewest = _FEWEST_NUMBERS_BY_PLANE if set(strides) == {1} else _FEWEST_NUMBERS_STRIDED
    return x.size >= fewest and (set(strides) == {1} or min(strides) > 1)


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
