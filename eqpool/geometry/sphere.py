"""The unit sphere S^(n-1) on which the latent l lives."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from eqpool.ops.arguments import check_shape
from eqpool.ops.numerics import as_float, power_of_two_below, safe_norm


def from_plane(x: ArrayLike, dimension: int) -> Array:
    """Maps points of R^k one to one into the sphere S^(dimension - 1) by inverse stereographic projection.

    x is mapped to (2 x, 1 - |x|^2) / (1 + |x|^2), padded with zeros. The origin is mapped to a pole and |x| = 1 to the
    equator. Distances near the origin double, and no scale has to be learnt.

    Args:
      x: (..., k), 1 <= k < dimension. Computed in float32 at least.
      dimension: n, the dimension of the space that holds the sphere.

    Returns:
      (..., dimension) of norm 1, float32 (float64 if `x` is).

    Raises:
      ValueError: `x` has no coordinates, or `dimension` coordinates or more.
    """
    x = as_float(x)
    check_shape("x", x, (..., "k"), f" with 1 <= k < {dimension}")
    if x.shape[-1] >= dimension:
        raise ValueError(f"x has shape {x.shape}, expected (..., k) with 1 <= k < {dimension}")
    # In units of about the largest coordinate, but at least 1, so that no square overflows.
    scale = jnp.maximum(power_of_two_below(jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))), 1)
    scaled, one = x / scale, 1 / scale
    square = jnp.sum(jnp.square(scaled), axis=-1, keepdims=True)
    total = jnp.square(one) + square
    point = jnp.concatenate([2 * scaled * one, jnp.square(one) - square], axis=-1) / total
    padding = [(0, 0)] * (x.ndim - 1) + [(0, dimension - point.shape[-1])]
    return jnp.pad(point, padding)


def normalize(x: ArrayLike) -> Array:
    """Projects vectors onto the unit sphere, l = x / |x|.

    The projection is that of Lokhande et al. 2022, section 3.1 (docs/method.md, section 1). The zero vector has no
    direction. It is mapped to the first basis vector with gradient 0, so that every result lies on the sphere and a
    padded row does not spoil the gradient. Vectors whose squares would under- or overflow are safe. A vector that is
    not finite becomes NaN.

    Args:
      x: (..., n), n >= 1. Computed in float32 at least.

    Returns:
      (..., n) of norm 1, float32 (float64 if `x` is).

    Raises:
      ValueError: `x` is a scalar or has no coordinates.
    """
    x = as_float(x)
    check_shape("x", x, (..., "n"), " with n >= 1")
    # The result does not depend on the scale, so a constant scale leaves the gradient exact.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    is_zero = largest == 0
    scaled = x / power_of_two_below(largest)
    scaled = jnp.where(jnp.isfinite(largest), scaled, jnp.nan)
    pole = jnp.broadcast_to(jax.nn.one_hot(0, x.shape[-1], dtype=x.dtype), x.shape)
    return jnp.where(is_zero, pole, scaled / jnp.where(is_zero, 1, safe_norm(scaled, keepdims=True)))
