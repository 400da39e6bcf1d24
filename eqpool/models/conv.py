"""2D and 3D convolutions that are fast on a CPU and native on an accelerator.

On a CPU XLA compiles the gradient of a 3D convolution into a slow generic loop, while 2D convolutions use Eigen's
matrix product. A 3D convolution is a sum over depth taps of 2D convolutions of planes, and is computed that way on a
CPU. The choice is made when a program is lowered (`jax.lax.platform_dependent`), so that an export for a TPU from a CPU
machine has the native convolution. The value and its gradient dispatch separately, inside `jax.custom_vjp`.
Differentiation through the dispatch would keep the residuals of every branch.

As for every `custom_vjp`, 3D convolutions support reverse mode only. `jax.jvp` and `jax.jacfwd` raise an error.
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from eqpool.models.conv_planes import planes_backward, planes_forward

_DIMENSIONS_3D = ("NDHWC", "DHWIO", "NDHWC")
_DIMENSIONS_2D = ("NHWC", "HWIO", "NHWC")

Sizes = tuple[int, ...]
PadPairs = tuple[tuple[int, int], ...]


def conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = "SAME",
) -> jax.Array:
    """Cross-correlates images or volumes with a kernel, channels last.

    Args:
      x: (N, H, W, C_in) or (N, D, H, W, C_in) floating array.
      kernel: (k_H, k_W, C_in, C_out) or (k_D, k_H, k_W, C_in, C_out), of the same dtype as `x`.
      strides: one stride for all axes, or one for each.
      padding: number of zeros added to both ends of an axis, one for all axes or one for each, or "SAME" or "VALID".

    Returns:
      (N, [D',] H', W', C_out) in the dtype of `x`, with H' = floor((H + 2 padding - k_H) / stride) + 1. On a CPU a
      bfloat16 convolution is computed and accumulated in float32 and rounded once.

    Raises:
      ValueError: ranks, channels or dtypes disagree, or the padded image is smaller than the kernel.
    """
    _check_operands(x, kernel)
    rank = x.ndim - 2
    strides = per_axis(strides, rank, "strides")
    pads = _pad_pairs(padding, x.shape[1:-1], kernel.shape[:-2], strides)
    _check_extent(x.shape[1:-1], kernel.shape[:-2], pads)
    if rank == 2:
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_DIMENSIONS_2D)
    return _conv3d(x, kernel, strides, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv3d(x: jax.Array, kernel: jax.Array, strides: Sizes, pads: PadPairs) -> jax.Array:
    shape = dict(strides=strides, pads=pads)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(planes_forward, **shape),
        default=functools.partial(_native_conv3d, **shape),
    )


def _conv3d_forward(x, kernel, strides, pads):
    return _conv3d(x, kernel, strides, pads), (x, kernel)


def _conv3d_backward(strides, pads, residuals, cotangent):
    shape = dict(strides=strides, pads=pads)
    return lax.platform_dependent(
        *residuals,
        cotangent,
        cpu=functools.partial(planes_backward, **shape),
        default=functools.partial(_native_backward, **shape),
    )


_conv3d.defvjp(_conv3d_forward, _conv3d_backward)


def _native_conv3d(x, kernel, *, strides, pads):
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_DIMENSIONS_3D)


def _native_backward(x, kernel, cotangent, *, strides, pads):
    _, pullback = jax.vjp(functools.partial(_native_conv3d, strides=strides, pads=pads), x, kernel)
    return pullback(cotangent)


def kaiming_fan_out(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Draws kernels (..., C, features) with standard deviation sqrt(2 / (taps x features)): Kaiming normal, fan-out."""
    return _normal(key, shape, dtype, 2 / (math.prod(shape[:-2]) * shape[-1]))


def kaiming_fan_in(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Draws kernels (..., C, features) with standard deviation sqrt(2 / (taps x C)): Kaiming normal, fan-in.

    This initialiser is for convolutions before a ReLU.
    """
    return _normal(key, shape, dtype, 2 / math.prod(shape[:-1]))


def lecun_fan_in(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Draws kernels (..., C, features) with standard deviation sqrt(1 / (taps x C)): LeCun normal, fan-in.

    This initialiser is for convolutions whose output is a logit.
    """
    return _normal(key, shape, dtype, 1 / math.prod(shape[:-1]))


def _normal(key, shape, dtype, variance):
    # Drawn as a vector, which gives the same numbers. XLA takes two seconds to compile a 5D draw on a CPU.
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape) * math.sqrt(variance)


class Conv(nn.Module):
    """A convolution layer with `conv`: (N, [D,] H, W, C) -> (N, [D',] H', W', features).

    Attributes:
      features: number of output channels.
      kernel_size: number of taps, one for all axes or one for each.
      strides: one stride for all axes, or one for each.
      padding: as in `conv`.
      use_bias: whether to add a bias to each feature, initialised with zero.
      kernel_init: initialiser of the ([k_D,] k_H, k_W, C, features) kernel, by default Kaiming normal with fan-out.
      dtype: dtype of the computation and the result. None promotes the dtypes of input and parameters.
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
        """Convolves (N, [D,] H, W, C). Raises the errors of `conv`."""
        shape = (*per_axis(self.kernel_size, x.ndim - 2, "kernel_size"), x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        out = conv(x, kernel, self.strides, self.padding)
        return out if bias is None else out + bias.reshape(*(1,) * (out.ndim - 1), -1)


def per_axis(value: int | Sequence[int], rank: int, name: str, least: int = 1) -> Sizes:
    """Returns one number for each of `rank` axes, given one number or `rank` of them.

    Raises:
      ValueError: `value` has another length or a number below `least`. The message calls it `name`.
    """
    sizes = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(sizes) != rank or min(sizes) < least:
        raise ValueError(f"{name} must be an integer of at least {least} or {rank} of them, got {value!r}")
    return sizes


def _pad_pairs(padding, spatial, kernel_size, strides) -> PadPairs:
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(spatial, kernel_size, strides, padding))
    return tuple((pad, pad) for pad in per_axis(padding, len(spatial), "padding", least=0))


def _check_operands(x: jax.Array, kernel: jax.Array) -> None:
    if x.ndim not in (4, 5) or kernel.ndim != x.ndim or x.shape[-1] != kernel.shape[-2]:
        raise ValueError(
            "x must be (N, [D,] H, W, C) and kernel ([k_D,] k_H, k_W, C, features), "
            f"got shapes {x.shape} and {kernel.shape}"
        )
    if x.dtype != kernel.dtype:
        raise ValueError(f"x and kernel must have one dtype, got {x.dtype} and {kernel.dtype}")


def _check_extent(spatial, kernel_size, pads) -> None:
    padded = [size + low + high for size, (low, high) in zip(spatial, pads, strict=True)]
    if any(size < taps for size, taps in zip(padded, kernel_size, strict=True)):
        raise ValueError(f"image {spatial}, padded to {tuple(padded)}, is smaller than kernel {kernel_size}")
