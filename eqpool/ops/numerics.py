"""Primitives that the maths of this package shares: safe norms, masked sums, exact products, rows across devices.

Everything here computes in float32 at least, also when its input is bfloat16, and pins products to HIGHEST precision:
the default on a TPU or on a GPU with TF32 rounds the factors, which breaks orthogonality and differences of kernels.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from eqpool.ops.arguments import check_shape

_SAMPLED_ROWS = 32

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
    """Square root that is 0 with gradient 0 wherever `x <= 0`, where the plain one has gradient infinity or NaN.

    NaN stays NaN: a distance that is not known must not be taken for 0.
    """
    not_above = x <= 0  # false for NaN
    # Double where: without the inner one the infinite slope at 0 meets the outer one's zero and gives NaN.
    return jnp.where(not_above, 0, jnp.sqrt(jnp.where(not_above, 1, x)))


def safe_norm(x: ArrayLike, *, axis: int = -1, keepdims: bool = False) -> Array:
    """Euclidean norm of `x` along `axis`, with gradient 0 instead of NaN where the norm is 0.

    The squares neither overflow nor underflow, whatever the scale of `x`.
    """
    x = as_float(x)
    # The norm is homogeneous, so taking the scale as a constant leaves the gradient exact.
    scale = power_of_two_below(jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0)))
    norm = scale * safe_sqrt(jnp.sum(jnp.square(x / scale), axis=axis, keepdims=True))
    return norm if keepdims else jnp.squeeze(norm, axis=axis)


def power_of_two_below(x: Array) -> Array:
    """The largest power of two not above `x`, by which to divide without rounding; 1 where `x` is 0 or not finite.

    At most half of the largest there is, whose reciprocal would be flushed to 0.
    """
    usable = jnp.isfinite(x) & (x >= jnp.finfo(x.dtype).tiny)
    _, exponent = jnp.frexp(jnp.where(usable, x, 1))
    return jnp.ldexp(jnp.ones_like(x), jnp.minimum(exponent, jnp.finfo(x.dtype).maxexp - 1) - 1)


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
    check_shape("mask", mask, (count,), ", one entry for each row")
    return mask.astype(bool).astype(dtype)


def zero_masked_rows(x: Array, weight: Array) -> Array:
    """`x` (N, ...) with the rows of weight 0 set to 0, so that not even a NaN there reaches a sum or a gradient."""
    return jnp.where(jnp.reshape(weight != 0, (-1,) + (1,) * (x.ndim - 1)), x, 0)


def flat_rows(x: Array) -> Array:
    """`x` (N, ...) as (N, size of a row); unlike a reshape to (N, -1) also of no rows."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def sum_over(x: Tree, axis_name: AxisName) -> Tree:
    """The sum of `x` over the devices of `axis_name` (shard_map, pmap or vmap); `x` itself if there is no axis."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def mean_over(x: Tree, axis_name: AxisName) -> Tree:
    """The mean of `x` over the devices of `axis_name`. Also tells shard_map that equal values are equal."""
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


def largest_over(x: Array, axis_name: AxisName) -> Array:
    """The largest `x` of the devices of `axis_name`, as a constant (no gradient); `x` itself if there is no axis."""
    x = jax.lax.stop_gradient(x)
    return x if axis_name is None else jax.lax.pmax(x, axis_name)


def hashable(axis_name: AxisName) -> AxisName:
    """`axis_name` as a static argument of a jit may be: several axes as a tuple."""
    return tuple(axis_name) if isinstance(axis_name, list) else axis_name


def gather_rows(x: Tree, axis_name: AxisName) -> Tree:
    """The rows (leading axis) of every device of `axis_name` in one array; `x` itself if there is no axis."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


class Points(NamedTuple):
    """N points of which squared distances are taken, in two forms that differ by a shift: (N, n) both.

    Attributes:
      centred: near the origin, so that products of rows are small beside their differences, but rounded.
      exact: where they were, so that a difference is that of the numbers given.
    """

    centred: Array
    exact: Array


def as_points(x: Array | Points) -> Points:
    """`x` itself, or an array of points that need no centre."""
    return x if isinstance(x, Points) else Points(x, x)


def as_scaled_points(x: Array, weight: Array, axis_name: AxisName = None) -> tuple[Points, Array]:
    """Points whose squared distances are safe, and the scale by which they were divided.

    Without the scale the squares of large rows would overflow and those of small rows underflow. Without a centre their
    products would lose the digits of a difference to a common offset. Distances do not depend on the centre, so it is
    taken as a constant and the gradient stays exact.

    Args:
      x: (N, n).
      weight: (N,), 0 on the rows that do not count, whatever they hold.
      axis_name: mapped axis or axes over whose devices the rows are spread.

    Returns:
      The points: 0 on the rows that do not count, centred at most of order 1 on the others, and all NaN where a row
      that counts is not finite, on whichever device. The scale, a power of two, so that the division does not round.
    """
    return _as_scaled_points(x, weight, axis_name=hashable(axis_name))


@partial(jax.jit, static_argnames="axis_name")  # one call instead of thirty, outside of a jit
def _as_scaled_points(x: Array, weight: Array, *, axis_name: AxisName) -> tuple[Points, Array]:
    x = zero_masked_rows(x, weight)
    constant = jax.lax.stop_gradient(x)
    count, bad = sum_over((jnp.sum(weight != 0, dtype=x.dtype), jnp.sum(~jnp.isfinite(constant))), axis_name)
    outer = power_of_two_below(largest_over(jnp.max(jnp.abs(constant), initial=0), axis_name))
    exact = jnp.where(bad == 0, x / outer, jnp.nan)
    mean = sum_over(jnp.sum(constant / outer, axis=0), axis_name) / jnp.maximum(count, 1)
    centre = _middle(constant / outer, weight, mean, axis_name)
    centred = zero_masked_rows(exact - centre[None], weight)
    inner = power_of_two_below(largest_over(jnp.max(jnp.abs(centred), initial=0), axis_name))
    return Points(centred / inner, zero_masked_rows(exact, weight) / inner), outer * inner


def _middle(x: Array, weight: Array, mean: Array, axis_name: AxisName) -> Array:
    """The point (n,) nearest to most rows: `mean`, or one of the rows where a few that are far away pull the mean off.

    Subtracting such a mean would round off the differences between all the others.
    """
    step = max(1, -(-x.shape[0] // _SAMPLED_ROWS))
    rows, weight = gather_rows((x[::step], weight[::step]), axis_name)
    points = jnp.concatenate([mean[None], rows])
    counts = jnp.concatenate([jnp.ones((1,), bool), weight != 0])
    # Distances of the kind that need no squares.
    distances = jnp.sum(jnp.abs(points[:, None] - rows[None]), axis=-1)
    cost = jnp.where(counts, jnp.sum(jnp.where(weight != 0, distances, 0), axis=1), jnp.inf)
    return points[jnp.argmin(cost)]


@jax.custom_batching.custom_vmap
def any_of_batch(condition: Array) -> Array:
    """`condition` itself; under vmap, whether it holds for any of the batch.

    A `cond` on it stays one: on a condition that differs over the batch, vmap would compute both branches.
    """
    return condition


@any_of_batch.def_vmap
def _any_of_batch_rule(axis_size: int, in_batched: list[bool], condition: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return any_of_batch(jnp.any(condition)), False


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
    which is the minimax game of CAI (Lokhande et al. 2022, section 4) in one pass (Ganin and Lempitsky 2015).

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
