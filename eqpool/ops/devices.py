"""Sums, means, rows and random keys over the devices of a mapped axis (shard_map, pmap or vmap with an axis name)."""

from collections.abc import Hashable, Sequence
from typing import TypeVar

import jax
from jax import Array

AxisName = Hashable | Sequence[Hashable] | None
Tree = TypeVar("Tree")


def sum_over(x: Tree, axis_name: AxisName) -> Tree:
    """Returns the sum of `x` over the devices of `axis_name`, or `x` itself if there is no axis."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def mean_over(x: Tree, axis_name: AxisName) -> Tree:
    """Returns the mean of `x` over the devices of `axis_name`, which marks equal values as equal for shard_map."""
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


def largest_over(x: Array, axis_name: AxisName) -> Array:
    """Returns the largest `x` of the devices of `axis_name`, or `x` itself without an axis, as a constant."""
    x = jax.lax.stop_gradient(x)
    return x if axis_name is None else jax.lax.pmax(x, axis_name)


def key_of_device(key: Array, axis_name: AxisName) -> Array:
    """Returns a random key of this device's own, or `key` itself without an axis.

    Devices that share a key would draw the same dropout masks for different rows.
    """
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))


def hashable(axis_name: AxisName) -> AxisName:
    """Returns `axis_name` as a static argument of a jit, with several axes as a tuple."""
    return tuple(axis_name) if isinstance(axis_name, list) else axis_name


def gather_rows(x: Tree, axis_name: AxisName) -> Tree:
    """Returns the rows (leading axis) of every device of `axis_name` in one array, or `x` itself without an axis."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)
