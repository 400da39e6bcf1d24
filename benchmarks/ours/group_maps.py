"""Our Cayley map and matrix exponential."""

import jax.numpy as jnp

from benchmarks import inputs
from benchmarks.ours import common
from eqpool.geometry import so


def group_map(name: str, n: int, batch: int, gradient: bool) -> inputs.Work:
    """Returns the work of a weighted sum over the map ("cayley" or "expm") of `batch` skew matrices."""
    weight = jnp.asarray(inputs.normal(batch, n, n, seed=3))
    mapped = so.group_map_named(name)
    return common.function(lambda A: jnp.sum(mapped(A) * weight), inputs.skew_matrices(batch, n), gradient)
