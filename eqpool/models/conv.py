"""3D convolution, upsampling and max pooling that are quick on a CPU and native on an accelerator.

XLA compiles the gradient of a 3D convolution for a CPU into a slow generic loop, while its 2D convolutions
run on Eigen's matrix product. A 3D convolution is a sum over depth taps of 2D convolutions of planes, so on a
CPU it is written that way. The choice is made when a program is lowered (`jax.lax.platform_dependent`), so
exporting for a TPU from a CPU machine gives the native convolution. Both the value and its gradient dispatch,
inside `jax.custom_vjp`: differentiating through the dispatch would keep the residuals of every branch.

Consequence: reverse mode only, as for every `custom_vjp`. `jax.jvp` and `jax.jacfwd` through them raise.
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax

# Up to this many input channels one 2D convolution with the depth taps folded into channels beats one a tap
# (110 against 330 ms for the stem at 91x109x91, batch 4, two cores); beyond it the copy costs more than it
# saves.
_MOST_CHANNELS_TO_FOLD = 4

_SPATIAL_AXES = (1, 2, 3)
_DIMENSIONS_3D = ("NDHWC", "DHWIO", "NDHWC")
_DIMENSIONS_2D = ("NHWC", "HWIO", "NHWC")

Triple = tuple[int, int, int]
PadPairs = tuple[tuple[int, int], ...]


def conv3d(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = "SAME",
) -> jax.Array:
    """Cross-correlates volumes with a 3D kernel, channels last.

    Args:
      x: (N, D, H, W, C_in) floating array.
      kernel: (k_D, k_H, k_W, C_in, C_out) of the same dtype as `x`.
      strides: one stride, or one an axis.
      padding: zeros added to both ends of an axis, one number or one an axis; or "SAME" or "VALID".

    Returns:
      (N, D', H', W', C_out) of the dtype of `x`, D' = floor((D + 2 padding - k_D) / stride) + 1. On a CPU a
      bfloat16 convolution is computed and accumulated in float32, and rounded once.

    Raises:
      ValueError: ranks, channels or dtypes disagree, or the padded volume is smaller than the kernel.
    """
    _check_operands(x, kernel)
    strides = _triple(strides, "strides")
    pads = _pad_pairs(padding, x.shape[1:4], kernel.shape[:3], strides)
    _check_extent(x.shape[1:4], kernel.shape[:3], pads)
    return _conv3d(x, kernel, strides, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv3d(x: jax.Array, kernel: jax.Array, strides: Triple, pads: PadPairs) -> jax.Array:
    shape = dict(strides=strides, pads=pads)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_planes_forward, **shape),
        default=functools.partial(_native_conv3d, **shape),
    )


def _conv3d_forward(x, kernel, strides, pads):
    return _conv3d(x, kernel, strides, pads), (x, kernel)


def _conv3d_backward(strides, pads, residuals, cotangent):
    shape = dict(strides=strides, pads=pads)
    return lax.platform_dependent(
        *residuals,
        cotangent,
        cpu=functools.partial(_planes_backward, **shape),
        default=functools.partial(_native_backward, **shape),
    )


_conv3d.defvjp(_conv3d_forward, _conv3d_backward)


def _native_conv3d(x, kernel, *, strides, pads):
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_DIMENSIONS_3D)


def _native_backward(x, kernel, cotangent, *, strides, pads):
    _, pullback = jax.vjp(functools.partial(_native_conv3d, strides=strides, pads=pads), x, kernel)
    return pullback(cotangent)


def _planes_forward(x, kernel, *, strides, pads):
    conv = _best_form(x.shape[-1])
    return conv(_single(x), _single(kernel), strides=strides, pads=pads).astype(x.dtype)


def _planes_backward(x, kernel, cotangent, *, strides, pads):
    """Gradients in x and kernel, apart so that XLA drops one nobody asks for (the stem's in the image)."""
    single_x, single_kernel, cotangent = _single(x), _single(kernel), _single(cotangent)
    conv = functools.partial(_best_form(x.shape[-1]), strides=strides, pads=pads)
    _, pullback_x = jax.vjp(lambda operand: conv(operand, single_kernel), single_x)
    # The kernel's gradient was quickest tap by tap whatever the channels (170 against 230 ms for the stem).
    by_tap = functools.partial(_sum_over_depth_taps, strides=strides, pads=pads)
    _, pullback_kernel = jax.vjp(lambda operand: by_tap(single_x, operand), single_kernel)
    (gradient_x,), (gradient_kernel,) = pullback_x(cotangent), pullback_kernel(cotangent)
    return gradient_x.astype(x.dtype), gradient_kernel.astype(kernel.dtype)


def _best_form(channels: int):
    return _depth_taps_as_channels if channels <= _MOST_CHANNELS_TO_FOLD else _sum_over_depth_taps


def _sum_over_depth_taps(x, kernel, *, strides, pads):
    taps = _depth_taps(x, kernel.shape[0], strides[0], pads[0])
    return sum(_conv_planes(tap, kernel[t], strides[1:], pads[1:]) for t, tap in enumerate(taps))


def _depth_taps_as_channels(x, kernel, *, strides, pads):
    depth, height, width, channels, features = kernel.shape
    stacked = jnp.concatenate(_depth_taps(x, depth, strides[0], pads[0]), axis=-1)
    folded = kernel.transpose(1, 2, 0, 3, 4).reshape(height, width, depth * channels, features)
    return _conv_planes(stacked, folded, strides[1:], pads[1:])


def _depth_taps(x, kernel_depth, stride, pads):
    """The planes each depth tap meets: kernel_depth arrays (N, D', H, W, C)."""
    low, high = pads
    x = jnp.pad(x, ((0, 0), (low, high), (0, 0), (0, 0), (0, 0)))
    span = x.shape[1] - kernel_depth + 1
    return [lax.slice_in_dim(x, tap, tap + span, stride, axis=1) for tap in range(kernel_depth)]


def _conv_planes(x, kernel, strides, pads):
    """2D convolution of every plane: (N, D', H, W, C) -> (N, D', H', W', features)."""
    batch, depth = x.shape[:2]
    planes = x.reshape(batch * depth, *x.shape[2:])
    out = lax.conv_general_dilated(planes, kernel, strides, pads, dimension_numbers=_DIMENSIONS_2D)
    return out.reshape(batch, depth, *out.shape[1:])


def _single(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def max_pool3d(x: jax.Array, window: int = 3, stride: int = 2) -> jax.Array:
    """Unpadded maximum over cubic windows.

    Where a window holds its maximum more than once, the gradient goes to the first in row-major order, as
    natively. A CPU pools one axis after the other: XLA's scatter of the gradient took eight times longer.

    Args:
      x: (N, D, H, W, C) floating array.
      window: edge of the window in voxels.
      stride: step between windows in voxels.

    Returns:
      (N, D', H', W', C), D' = floor((D - window) / stride) + 1.

    Raises:
      ValueError: an axis is shorter than the window.
    """
    if x.ndim != 5 or min(x.shape[1:4]) < window:
        raise ValueError(f"x must be (N, D, H, W, C), its axes at least window={window}, got {x.shape}")
    return _max_pool3d(x, window, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool3d(x: jax.Array, window: int, stride: int) -> jax.Array:
    shape = dict(window=window, stride=stride)
    return lax.platform_dependent(
        x,
        cpu=functools.partial(_axiswise_max_pool, **shape),
        default=functools.partial(_native_max_pool, **shape),
    )


def _max_pool_forward(x, window, stride):
    return _max_pool3d(x, window, stride), x


def _max_pool_backward(window, stride, x, cotangent):
    def gradient(x, cotangent, *, pool):
        _, pullback = jax.vjp(functools.partial(pool, window=window, stride=stride), x)
        return pullback(cotangent)

    return lax.platform_dependent(
        x,
        cotangent,
        cpu=functools.partial(gradient, pool=_axiswise_max_pool),
        default=functools.partial(gradient, pool=_native_max_pool),
    )


_max_pool3d.defvjp(_max_pool_forward, _max_pool_backward)


def _native_max_pool(x, *, window, stride):
    return nn.max_pool(x, (window,) * 3, (stride,) * 3)


def _axiswise_max_pool(x, *, window, stride):
    # Last axis first, so that among equal maxima the first in row-major order wins, as natively.
    for axis in reversed(_SPATIAL_AXES):
        x = _max_along(x, axis, window, stride)
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_along(x, axis, window, stride):
    return functools.reduce(jnp.maximum, _window_taps(x, axis, window, stride))


def _max_along_forward(x, axis, window, stride):
    largest = _max_along(x, axis, window, stride)
    return largest, (x, largest)


def _max_along_backward(axis, window, stride, residuals, cotangent):
    x, largest = residuals
    unclaimed = jnp.ones(largest.shape, bool)
    shares = []
    for tap in _window_taps(x, axis, window, stride):
        first = unclaimed & (tap == largest)
        unclaimed = unclaimed & ~first
        shares.append(jnp.where(first, cotangent, jnp.zeros_like(cotangent)))
    return (_interleave(shares, axis, stride, x.shape[axis]),)


_max_along.defvjp(_max_along_forward, _max_along_backward)


def _window_taps(x, axis, window, stride):
    span = x.shape[axis] - window + 1
    return [lax.slice_in_dim(x, tap, tap + span, stride, axis=axis) for tap in range(window)]


def _interleave(shares, axis, stride, size):
    """Adds shares[t][i] into position i * stride + t along `axis`; the transpose of `_window_taps`.

    Positions with the same remainder modulo the stride are summed first, then woven together by a reshape: a
    scatter or an interior padding of each share would write the large array once a tap.
    """
    length = -(-size // stride)
    phases: list[list[jax.Array]] = [[] for _ in range(stride)]
    for tap, share in enumerate(shares):
        before = tap // stride
        after = length - share.shape[axis] - before
        widths = [(before, after, 0) if a == axis else (0, 0, 0) for a in range(share.ndim)]
        phases[tap % stride].append(lax.pad(share, jnp.zeros((), share.dtype), widths))
    empty = jnp.zeros_like(phases[0][0])
    woven = jnp.stack([sum(phase, start=empty) for phase in phases], axis=axis + 1)
    woven = woven.reshape(*empty.shape[:axis], length * stride, *empty.shape[axis + 1 :])
    return lax.slice_in_dim(woven, 0, size, axis=axis)


def depth_to_space(x: jax.Array) -> jax.Array:
    """Unfolds eight channel groups into 2 x 2 x 2 voxels: (N, D, H, W, 8 C) -> (N, 2D, 2H, 2W, C).

    Group 4 a + 2 b + c becomes the voxel at offset (a, b, c).

    Raises:
      ValueError: the channels are no multiple of eight.
    """
    batch, depth, height, width, channels = x.shape
    if channels % 8:
        raise ValueError(f"x must have a multiple of 8 channels, got shape {x.shape}")
    x = x.reshape(batch, depth, height, width, 2, 2, 2, channels // 8).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, 2 * depth, 2 * height, 2 * width, channels // 8)


def upsample_conv3d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Doubles volumes (nearest neighbour), then convolves with a 3^3 kernel, computed at the low resolution.

    A 3-tap kernel on a doubled signal meets only two distinct values at each parity, so the eight parities
    are eight groups of output channels of a 3^3 kernel on the small volume: the same numbers, from a wide
    matrix product instead of a narrow one eight times as long.

    Args:
      x: (N, D, H, W, C_in) floating array.
      kernel: (3, 3, 3, C_in, C_out), same dtype.

    Returns:
      (N, 2D, 2H, 2W, C_out).
    """
    parity = jnp.asarray(_PARITY_TAPS, kernel.dtype)
    subpixel = jnp.einsum("apu,bqv,crw,uvwio->pqriabco", parity, parity, parity, kernel)
    subpixel = subpixel.reshape(3, 3, 3, kernel.shape[3], 8 * kernel.shape[4])
    return depth_to_space(conv3d(x, subpixel, strides=1, padding=1))


# [parity, tap on the small signal, tap on the doubled signal]
_PARITY_TAPS = np.array([[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])


def kaiming_fan_out(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Kaiming normal, fan-out: deviation sqrt(2 / (taps x features)), for kernels (..., C, features)."""
    fan_out = math.prod(shape[:-2]) * shape[-1]
    # Drawn flat: the same numbers, but XLA takes two seconds to compile each five-dimensional draw on a CPU.
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape) * math.sqrt(2 / fan_out)


class Conv3D(nn.Module):
    """Convolution layer over `conv3d`: (N, D, H, W, C) -> (N, D', H', W', features).

    Attributes:
      features: output channels.
      kernel_size: taps, one number or one an axis.
      strides: one number or one an axis.
      padding: as in `conv3d`.
      use_bias: adds a bias per feature, zero at the start.
      kernel_init: initialiser of the (k_D, k_H, k_W, C, features) kernel; Kaiming normal, fan-out.
      dtype: dtype of the computation and the result; None promotes input and parameters.
      param_dtype: dtype of the parameters.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: int | Sequence[int] | str = "SAME"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = kaiming_fan_out
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves (N, D, H, W, C); raises what `conv3d` raises."""
        shape = (*_triple(self.kernel_size, "kernel_size"), x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        out = conv3d(x, kernel, self.strides, self.padding)
        return out if bias is None else out + bias.reshape(1, 1, 1, 1, -1)


class UpsampleConv3D(nn.Module):
    """Layer over `upsample_conv3d`, without a bias: (N, D, H, W, C) -> (N, 2D, 2H, 2W, features)."""

    features: int
    kernel_init: nn.initializers.Initializer = kaiming_fan_out
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Doubles and convolves (N, D, H, W, C)."""
        shape = (3, 3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        return upsample_conv3d(*promote_dtype(x, kernel, dtype=self.dtype))


def _triple(value: int | Sequence[int], name: str, least: int = 1) -> Triple:
    triple = (value,) * 3 if isinstance(value, int) else tuple(value)
    if len(triple) != 3 or min(triple) < least:
        raise ValueError(f"{name} must be an integer of at least {least} or three of them, got {value!r}")
    return triple


def _pad_pairs(padding, spatial, kernel_size, strides) -> PadPairs:
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(spatial, kernel_size, strides, padding))
    return tuple((pad, pad) for pad in _triple(padding, "padding", least=0))


def _check_operands(x: jax.Array, kernel: jax.Array) -> None:
    if x.ndim != 5 or kernel.ndim != 5 or x.shape[-1] != kernel.shape[3]:
        raise ValueError(
            "x must be (N, D, H, W, C) and kernel (k_D, k_H, k_W, C, features), "
            f"got shapes {x.shape} and {kernel.shape}"
        )
    if x.dtype != kernel.dtype:
        raise ValueError(f"x and kernel must have one dtype, got {x.dtype} and {kernel.dtype}")


def _check_extent(spatial, kernel_size, pads) -> None:
    padded = [size + low + high for size, (low, high) in zip(spatial, pads, strict=True)]
    if any(size < taps for size, taps in zip(padded, kernel_size, strict=True)):
        raise ValueError(f"volume {spatial}, padded to {tuple(padded)}, is smaller than kernel {kernel_size}")
