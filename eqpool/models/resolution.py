"""Changes of resolution in 2D and 3D: max pooling, and doubling followed by a convolution.

As in `eqpool.models.conv` the form is chosen when a program is lowered. It is native on an accelerator and another on a
CPU. Therefore only reverse mode is supported.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax

from eqpool.models.conv import conv, kaiming_fan_out

Interpolation = Literal["nearest", "linear"]


def max_pool(x: jax.Array, window: int = 3, stride: int = 2, padding: int = 0) -> jax.Array:
    """Computes the maximum over square or cubic windows.

    If a window holds its maximum more than once, the gradient goes to the first in row-major order, as in the native
    form. A CPU pools one axis after the other, because XLA's scatter of the gradient took eight times longer.

    Args:
      x: (N, [D,] H, W, C) floating array.
      window: edge of the window in voxels.
      stride: step between windows in voxels.
      padding: number of voxels of minus infinity added to both ends of each axis, below `window`.

    Returns:
      (N, [D',] H', W', C), H' = floor((H + 2 padding - window) / stride) + 1.

    Raises:
      ValueError: a padded axis is shorter than the window, or `padding` is not below `window`.
    """
    if x.ndim not in (4, 5) or min(x.shape[1:-1]) + 2 * padding < window:
        raise ValueError(
            f"x must be (N, [D,] H, W, C), its axes padded by {padding} at least window={window}, got {x.shape}"
        )
    if not 0 <= padding < window:
        raise ValueError(f"padding must be at least 0 and below window={window}, got {padding}")
    if padding:
        widths = [(padding, padding) if 0 < axis < x.ndim - 1 else (0, 0) for axis in range(x.ndim)]
        x = jnp.pad(x, widths, constant_values=-jnp.inf)
    return _max_pool(x, window, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    shape = dict(window=window, stride=stride)
    return lax.platform_dependent(
        x,
        cpu=functools.partial(_axiswise_max_pool, **shape),
        default=functools.partial(_native_max_pool, **shape),
    )


def _max_pool_forward(x, window, stride):
    return _max_pool(x, window, stride), x


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


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _native_max_pool(x, *, window, stride):
    rank = x.ndim - 2
    return nn.max_pool(x, (window,) * rank, (stride,) * rank)


def _axiswise_max_pool(x, *, window, stride):
    # Last axis first, so that the first of equal maxima in row-major order wins, as in the native form.
    for axis in reversed(range(1, x.ndim - 1)):
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
    """Adds shares[t][i] into position i * stride + t along `axis`, the transpose of `_window_taps`.

    Positions with the same remainder modulo the stride are summed first and then interleaved by a reshape. A scatter or
    an interior padding of each share would write the large array once per tap.
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
    """Unfolds channel groups into 2 x 2 (x 2) voxels: (N, D, H, W, 8 C) -> (N, 2D, 2H, 2W, C), or with 4 in 2D.

    Group 4 a + 2 b + c becomes the voxel at offset (a, b, c). In 2D, group 2 b + c becomes the one at (b, c).

    Raises:
      ValueError: the number of channels is not a multiple of eight, or of four in 2D.
    """
    batch, *spatial, channels = x.shape
    rank = len(spatial)
    if channels % 2**rank:
        raise ValueError(f"x must have a multiple of {2**rank} channels, got shape {x.shape}")
    x = x.reshape(batch, *spatial, *(2,) * rank, channels // 2**rank)
    woven = [axis for pair in zip(range(1, rank + 1), range(rank + 1, 2 * rank + 1), strict=True) for axis in pair]
    x = x.transpose(0, *woven, 2 * rank + 1)
    return x.reshape(batch, *(2 * size for size in spatial), channels // 2**rank)


def upsample_conv(x: jax.Array, kernel: jax.Array, interpolation: Interpolation = "nearest") -> jax.Array:
    """Doubles images or volumes, pads them with zeros and convolves them with a 3-tap kernel.

    The computation is at the low resolution. At each parity, a 3-tap kernel on a doubled signal sees a fixed mixture of
    three neighbours in the small signal. The parities are therefore groups of output channels of a 3-tap kernel on the
    small image. The numbers are the same, and come from a wide matrix product instead of a narrow one that is eight
    times as long (four in 2D).

    Args:
      x: (N, [D,] H, W, C_in) floating array.
      kernel: ([3,] 3, 3, C_in, C_out) in the same dtype.
      interpolation: "nearest" repeats each voxel. "linear" takes 3/4 of the nearer voxel and 1/4 of the next, and
        repeats the border voxel beyond the border, as PyTorch does with `align_corners=False`.

    Returns:
      (N, [2D,] 2H, 2W, C_out).

    Raises:
      ValueError: unknown `interpolation`.
    """
    if interpolation not in _PARITY_TAPS:
        raise ValueError(f"interpolation must be one of {sorted(_PARITY_TAPS)}, got {interpolation!r}")
    subpixel = _subpixel_kernel(kernel, _PARITY_TAPS[interpolation])
    if interpolation == "nearest":
        return depth_to_space(conv(x, subpixel, strides=1, padding=1))
    doubled = depth_to_space(conv(_pad_edges(x, range(1, x.ndim - 1)), subpixel, strides=1, padding=0))
    return doubled - _from_beyond_the_border(x, kernel)


# [parity, tap on the small signal, tap on the doubled signal]
_PARITY_TAPS = {
    "nearest": np.array([[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]]),
    "linear": np.array([[[3, 1, 0], [1, 3, 3], [0, 0, 1]], [[1, 0, 0], [3, 3, 1], [0, 1, 3]]]) / 4,
}
_FOLDINGS = {2: "apu,bqv,uvio->pqiabo", 3: "apu,bqv,crw,uvwio->pqriabco"}


def _subpixel_kernel(kernel, parity_taps):
    rank = kernel.ndim - 2
    parities = [jnp.asarray(parity_taps, kernel.dtype)] * rank
    subpixel = jnp.einsum(_FOLDINGS[rank], *parities, kernel)
    return subpixel.reshape(*kernel.shape[:-1], 2**rank * kernel.shape[-1])


def _from_beyond_the_border(x, kernel):
    """Computes the contribution to the border voxels of a linear doubling that continues beyond the border.

    The result of `upsample_conv` has zeros there instead, so this contribution is subtracted. The layer beyond the
    border consists of the two faces across the first axis, the two across the second without the voxels of the first,
    and so on. Only the outermost tap of the kernel sees a face, hence a convolution within the face.
    """
    axes = range(1, x.ndim - 1)
    total: jax.Array | float = 0.0
    for axis in axes:
        faces = _ends(x, axis)
        for other in set(axes) - {axis}:
            faces = _double_linearly(faces, other, beyond=other > axis)
        taps = jnp.concatenate(jnp.split(_ends(kernel, axis - 1), 2, axis=axis - 1), axis=-1)
        border = conv(faces, taps, strides=1, padding=[int(other < axis) for other in axes])
        first, last = jnp.split(border, 2, axis=axis)
        first, last = jnp.split(first, 2, axis=-1)[0], jnp.split(last, 2, axis=-1)[1]
        gap = 2 * x.shape[axis] - 2
        between = jnp.zeros((*first.shape[:axis], gap, *first.shape[axis + 1 :]), first.dtype)
        total = total + jnp.concatenate([first, between, last], axis=axis)
    return total


def _ends(x, axis):
    """Concatenates the first and the last entry along `axis`."""
    size = x.shape[axis]
    return jnp.concatenate([lax.slice_in_dim(x, index, index + 1, axis=axis) for index in (0, size - 1)], axis=axis)


def _pad_edges(x, axes: Sequence[int]):
    return jnp.pad(x, [(1, 1) if axis in axes else (0, 0) for axis in range(x.ndim)], mode="edge")


def _double_linearly(x, axis, *, beyond):
    """Doubles `axis` with a matrix product, which is fast for faces. `beyond` adds one voxel at both ends."""
    size = x.shape[axis]
    voxels = np.arange(-1, 2 * size + 1) if beyond else np.arange(2 * size)
    places = np.clip((voxels - 0.5) / 2, 0, size - 1)
    weights = np.maximum(1 - np.abs(places[:, None] - np.arange(size)), 0)
    doubled = jnp.tensordot(jnp.asarray(weights, x.dtype), x, axes=(1, axis), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(doubled, 0, axis)


class UpsampleConv(nn.Module):
    """A layer with `upsample_conv` and no bias: (N, [D,] H, W, C) -> (N, [2D,] 2H, 2W, features)."""

    features: int
    interpolation: Interpolation = "nearest"
    kernel_init: nn.initializers.Initializer = kaiming_fan_out
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Doubles and convolves (N, [D,] H, W, C)."""
        shape = (*(3,) * (x.ndim - 2), x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        return upsample_conv(x, kernel, self.interpolation)
