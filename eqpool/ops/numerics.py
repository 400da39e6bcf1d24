"""Primitives that the maths of this package shares: dtypes, exact products and safe norms.

Every function computes in float32 at least, also for bfloat16 input. Products have HIGHEST precision: the default on a
TPU, or on a GPU with TF32, rounds the factors, which breaks orthogonality and differences of kernels.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def as_float(x: ArrayLike) -> Array:
    """Returns `x` as float32. float64 stays float64. Half precision, integers and booleans become float32.

    Raises:
      ValueError: `x` is complex.
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"expected a real array, got dtype {x.dtype}")
    return x if x.dtype in (jnp.float32, jnp.float64) else x.astype(jnp.float32)


def safe_sqrt(x: Array) -> Array:
    """Computes a square root that is 0 with gradient 0 for `x <= 0`, where `jnp.sqrt` has gradient infinity or NaN.

    NaN stays NaN, because an unknown distance must not become 0.
    """
    not_above = x <= 0  # false for NaN
    # Without the inner `where` the infinite slope at 0 would be multiplied by the zero of the outer one and give NaN.
    return jnp.where(not_above, 0, jnp.sqrt(jnp.where(not_above, 1, x)))


def safe_norm(x: ArrayLike, *, axis: int = -1, keepdims: bool = False) -> Array:
    """Computes the Euclidean norm of `x` along `axis`, with gradient 0 instead of NaN where the norm is 0.

    The squares neither overflow nor underflow, whatever the scale of `x`.
    """
    x = as_float(x)
    # The norm is homogeneous, so a constant scale leaves the gradient exact.
    scale = power_of_two_below(jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0)))
    norm = scale * safe_sqrt(jnp.sum(jnp.square(x / scale), axis=axis, keepdims=True))
    return norm if keepdims else jnp.squeeze(norm, axis=axis)


def power_of_two_below(x: Array) -> Array:
    """Returns the largest power of two not above `x`, by which a division does not round.

    The result is 1 where `x` is 0 or not finite. It is at most half of the dtype's largest power of two, whose
    reciprocal would be flushed to 0.
    """
    usable = jnp.isfinite(x) & (x >= jnp.finfo(x.dtype).tiny)
    _, exponent = jnp.frexp(jnp.where(usable, x, 1))
    return jnp.ldexp(jnp.ones_like(x), jnp.minimum(exponent, jnp.finfo(x.dtype).maxexp - 1) - 1)
