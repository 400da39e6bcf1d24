"""Primitives that the maths of this package shares: safe norms, masked sums, exact products, rows across devices.

Everything here computes in float32 at least, also when its input is bfloat16, and pins products to HIGHEST precision:
the default on a TPU or on a GPU with TF32 rounds the factors, which breaks orthogonality and differences of kernels.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

AxisName = Hashable | Sequence[Hashable] | None
Tree = TypeVar("Tree")

einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def as_float(x: ArrayLike) -> Array:
    """`x` as float32, or as float64 where it already is; half precision, integers and booleans become float32.

    Raises:
      ValueError: `x` is complex.
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"expected a real array, got dtype {x.dtype}")
    return x if x.dtype in (jnp.float32, jnp.float64) else x.astype(jnp.float32)


def safe_sqrt(x: Array) -> Array:
    """Square root that is 0 with gradient 0 wherever `x <= 0`, where the plain one has gradient infinity or NaN."""
    positive = x > 0
    # Double where: without the inner one the infinite slope at 0 meets the outer one's zero and gives NaN.
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_norm(x: ArrayLike, *, axis: int = -1, keepdims: bool = False) -> Array:
    """Euclidean norm of `x` along `axis`, with gradient 0 instead of NaN where the norm is 0."""
    return safe_sqrt(jnp.sum(jnp.square(as_float(x)), axis=axis, keepdims=keepdims))


def row_weight(mask: ArrayLike | None, count: int, *, dtype: Any = jnp.float32) -> Array:
    """Weights (count,) that are 1 on the rows that count and 0 on the others.

    Args:
      mask: (count,) booleans or 0-1 numbers, or None for all rows.
      count: number of rows.
      dtype: of the result.

    Raises:
      ValueError: `mask` has another shape.
    """
    if mask is None:
        return jnp.ones((count,), dtype)
    mask = jnp.asarray(mask)
    if mask.shape != (count,):
        raise ValueError(f"mask has shape {mask.shape}, expected ({count},), one entry for each row")
    return mask.astype(bool).astype(dtype)


def zero_masked_rows(x: Array, weight: Array) -> Array:
    """`x` (N, ...) with the rows of weight 0 set to 0, so that not even a NaN there reaches a sum or a gradient."""
    return jnp.where(jnp.reshape(weight != 0, (-1,) + (1,) * (x.ndim - 1)), x, 0)


def sum_over(x: Tree, axis_name: AxisName) -> Tree:
    """The sum of `x` over the devices of `axis_name` (shard_map, pmap or vmap); `x` itself if there is no axis."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def mean_over(x: Tree, axis_name: AxisName) -> Tree:
    """The mean of `x` over the devices of `axis_name`. Also tells shard_map that equal values are equal."""
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


def gather_rows(x: Tree, axis_name: AxisName) -> Tree:
    """The rows (leading axis) of every device of `axis_name` in one array; `x` itself if there is no axis."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def masked_sum_and_count(
    values: Array, mask: ArrayLike | None = None, *, axis_name: AxisName = None
) -> tuple[Array, Array]:
    """Sum of the values (N,) that count, and their number: the pair to accumulate, never a mean of means."""
    weight = row_weight(mask, values.shape[0], dtype=values.dtype)
    return sum_over((jnp.sum(zero_masked_rows(values, weight)), jnp.sum(weight)), axis_name)


def masked_mean(values: Array, mask: ArrayLike | None = None, *, axis_name: AxisName = None) -> Array:
    """Mean of the values (N,) that count, over all devices of `axis_name`; 0 where none does."""
    total, count = masked_sum_and_count(values, mask, axis_name=axis_name)
    return total / jnp.maximum(count, 1)


def sum_over_row_tiles(partial_sum: Callable[[Any], Tree], rows: Any, *, tile_size: int) -> Tree:
    """`partial_sum(rows)`, computed `tile_size` rows at a time to bound the memory of an N x N intermediate.

    Args:
      partial_sum: maps a block of rows to a tree of arrays that add up over blocks. A row of zeros must add nothing:
        the last block is filled up with such rows.
      rows: a tree of arrays with the same leading axis.
      tile_size: rows in a block. Backward passes recompute a block instead of keeping it.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if count <= tile_size:
        return partial_sum(rows)
    tiles = -(-count // tile_size)

    def into_tiles(x: Array) -> Array:
        x = jnp.pad(x, ((0, tiles * tile_size - count),) + ((0, 0),) * (x.ndim - 1))
        return x.reshape(tiles, tile_size, *x.shape[1:])

    partials = jax.lax.map(jax.checkpoint(partial_sum), jax.tree.map(into_tiles, rows))
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), partials)


def round_straight_through(x: Array) -> Array:
    """The nearest whole numbers, with the gradient of `x` itself (Bengio et al. 2013): rounding has none of its own."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def reverse_gradient(x: Array, scale: float = 1.0) -> Array:
    """`x` itself, whose gradient is multiplied by `-scale` on the way back.

    An adversary that reads `reverse_gradient(latent, scale)` and minimises its own loss makes the encoder maximise it,
    which is the minimax game of CAI (paper A, section 4) in one pass (Ganin and Lempitsky 2015).

    Args:
      x: any float array.
      scale: how strongly the encoder is pushed; concrete.
    """
    return x


def _reverse_forward(x: Array, scale: float) -> tuple[Array, None]:
    return x, None


def _reverse_backward(scale: float, _: None, gradient: Array) -> tuple[Array]:
    return (-scale * gradient,)


reverse_gradient.defvjp(_reverse_forward, _reverse_backward)
