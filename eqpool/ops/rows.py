"""Rows of a batch that count: their weights, sums and means, and sums over blocks of rows."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from eqpool.ops.arguments import check_shape
from eqpool.ops.devices import AxisName, Tree, sum_over


def row_weight(mask: ArrayLike | None, count: int, *, dtype: Any = jnp.float32) -> Array:
    """Returns weights (count,) that are 1 for the rows that count and 0 for the others.

    Args:
      mask: (count,) booleans or 0-1 numbers, or None for all rows.
      count: number of rows.
      dtype: dtype of the result.

    Raises:
      ValueError: `mask` has another shape.
    """
    if mask is None:
        return jnp.ones((count,), dtype)
    mask = jnp.asarray(mask)
    check_shape("mask", mask, (count,), ", one entry for each row")
    return mask.astype(bool).astype(dtype)


def zero_masked_rows(x: Array, weight: Array) -> Array:
    """Returns `x` (N, ...) with its rows of weight 0 set to 0, so that a NaN there reaches no sum and no gradient."""
    return jnp.where(jnp.reshape(weight != 0, (-1,) + (1,) * (x.ndim - 1)), x, 0)


def flat_rows(x: Array) -> Array:
    """Returns `x` (N, ...) as (N, size of a row). Unlike a reshape to (N, -1) this also works for N = 0."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def masked_sum_and_count(
    values: Array, mask: ArrayLike | None = None, *, axis_name: AxisName = None
) -> tuple[Array, Array]:
    """Computes the sum of the values (N,) that count, and their number.

    Sums and counts may be added over batches, unlike means.
    """
    weight = row_weight(mask, values.shape[0], dtype=values.dtype)
    return sum_over((jnp.sum(zero_masked_rows(values, weight)), jnp.sum(weight)), axis_name)


def masked_mean(values: Array, mask: ArrayLike | None = None, *, axis_name: AxisName = None) -> Array:
    """Computes the mean of the values (N,) that count over all devices of `axis_name`, or 0 if none counts."""
    total, count = masked_sum_and_count(values, mask, axis_name=axis_name)
    return total / jnp.maximum(count, 1)


def sum_over_row_tiles(partial_sum: Callable[[Any], Tree], rows: Any, *, tile_size: int) -> Tree:
    """Computes `partial_sum(rows)` in blocks of `tile_size` rows, to bound the memory of an N x N intermediate.

    Args:
      partial_sum: function from a block of rows to a tree of arrays that add up over blocks. A row of zeros must add
        nothing, because the last block is padded with such rows.
      rows: tree of arrays with the same leading axis.
      tile_size: number of rows in a block. Backward passes recompute a block instead of keeping it.

    Returns:
      The tree that `partial_sum` returns.
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
