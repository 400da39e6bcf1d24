"""Points in a form whose squared distances neither overflow nor underflow nor lose digits."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqpool.ops.devices import AxisName, gather_rows, hashable, largest_over, sum_over
from eqpool.ops.numerics import power_of_two_below
from eqpool.ops.rows import zero_masked_rows

_SAMPLED_ROWS = 32


class Points(NamedTuple):
    """N points for squared distances, in two forms (N, n) that differ by a shift.

    Attributes:
      centred: points shifted to the origin, so that products of rows lose few digits. The shift rounds them.
      exact: points without the shift, so that differences of the given numbers are exact.
    """

    centred: Array
    exact: Array


def as_points(x: Array | Points) -> Points:
    """Returns `x` as `Points`. An array needs no centre, so both of its forms are the array."""
    return x if isinstance(x, Points) else Points(x, x)


def as_scaled_points(x: Array, weight: Array, axis_name: AxisName = None) -> tuple[Points, Array]:
    """Centres and scales points so that their squared distances are safe.

    The scale keeps squares of large rows from overflowing and those of small rows from underflowing. The centre keeps
    products from losing the digits of a difference to a common offset. Distances do not depend on the centre, so it is
    a constant and the gradient stays exact.

    Args:
      x: (N, n).
      weight: (N,), 0 for the rows that do not count, whatever values they hold.
      axis_name: mapped axis or axes over whose devices the rows are spread.

    Returns:
      The points and the scale. The points are 0 in the rows that do not count. In the others `centred` is at most of
      order 1. All points are NaN if a row that counts is not finite on any device. The scale by which the points were
      divided is a power of two, so that the division does not round.
    """
    return _as_scaled_points(x, weight, axis_name=hashable(axis_name))


@partial(jax.jit, static_argnames="axis_name")  # one call instead of thirty where no outer jit exists
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
    """Returns the point (n,) with the least summed distance to the rows: `mean`, or one of the rows.

    A few distant rows may pull the mean away from all others. Subtracting such a mean would round off the differences
    between the others.
    """
    step = max(1, -(-x.shape[0] // _SAMPLED_ROWS))
    rows, weight = gather_rows((x[::step], weight[::step]), axis_name)
    points = jnp.concatenate([mean[None], rows])
    counts = jnp.concatenate([jnp.ones((1,), bool), weight != 0])
    # l1 distances, which need no squares.
    distances = jnp.sum(jnp.abs(points[:, None] - rows[None]), axis=-1)
    cost = jnp.where(counts, jnp.sum(jnp.where(weight != 0, distances, 0), axis=1), jnp.inf)
    return points[jnp.argmin(cost)]
