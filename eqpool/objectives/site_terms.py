"""The MMD across sites as the stages use it, and its mean over chunks for large numbers of rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eqpool.config import KernelConfig, parse_bandwidth
from eqpool.engine.state import Batch
from eqpool.losses.mmd import mmd
from eqpool.ops.devices import AxisName

VALIDATION_CHUNK = 1024  # rows of one MMD, with a cost that grows with their square


def kernel_options(config: KernelConfig, num_sites: int) -> dict[str, Any]:
    """Returns the keyword arguments of `eqpool.losses.mmd` that a stage's config sets."""
    return {
        "num_sites": num_sites,
        "kernel": config.kernel,
        "bandwidth": parse_bandwidth(config.bandwidth),
        "estimator": config.estimator,
    }


def tau_mmd(config: KernelConfig, tau: jax.Array, rows: Batch, num_sites: int, axis_name: AxisName = None) -> jax.Array:
    """Computes the MMD across sites of k columns of rotations (N, n, k), over the devices of `axis_name`.

    The distance is |tau_i - tau_j|_F / sqrt(k), the length of a chord in radians.
    """
    count, _, columns = tau.shape
    flat = tau.reshape(count, -1) / jnp.sqrt(float(columns))
    return mmd(flat, rows["site"], mask=rows["mask"], axis_name=axis_name, **kernel_options(config, num_sites))


def labels_of(rows: Batch) -> Batch:
    """Returns the labels that should not be predictable: the columns `site` and, if present, `nuisance` of `rows`."""
    return {name: rows[name] for name in ("site", "nuisance") if name in rows}


def sum_over_labels(
    term: Callable[[Batch, int], jax.Array], rows: Batch, num_sites: int, nuisance_levels: tuple[int, ...]
) -> jax.Array:
    """Sums `term(rows, levels)` over the site and each nuisance, column q of `nuisance`, in the site's place."""
    total = term(rows, num_sites)
    for index, levels in enumerate(nuisance_levels):
        total = total + term(rows | {"site": rows["nuisance"][:, index]}, levels)
    return total


def mean_over_chunks(term: Callable[[Batch], jax.Array], rows: Batch) -> jax.Array:
    """Averages `term` over equal chunks of rows.

    `rows` holds columns (N, ...). Each chunk also gets a `mask` with 0 for padding.
    """
    num_rows = next(iter(rows.values())).shape[0]
    chunks = -(-num_rows // VALIDATION_CHUNK)
    size = -(-num_rows // chunks)
    columns = rows | {"mask": jnp.ones(num_rows, jnp.float32)}

    def split(column: jax.Array) -> jax.Array:  # rows are dealt in turn, so that every chunk has all sites
        padded = jnp.pad(column, ((0, chunks * size - num_rows),) + ((0, 0),) * (column.ndim - 1))
        return padded.reshape(size, chunks, *column.shape[1:]).swapaxes(0, 1)

    return jax.lax.map(term, {name: split(column) for name, column in columns.items()}).mean()
