"""The ISTN's batches: images of the source beside images of the reference, unpaired."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from eqpool.engine.image_table import Order
from eqpool.engine.state import Batch
from eqpool.engine.table import EpochOrder, epoch_order, lay_out, layout_on

# Of the reference's columns these alone reach training; its targets are for evaluation.
REFERENCE_COLUMNS = ("inputs", "site")


class Pairs(NamedTuple):
    """Row indices of the source's and the reference's tables, by split."""

    source_train: np.ndarray
    reference_train: np.ndarray
    source_validation: np.ndarray
    reference_validation: np.ndarray


class PairOrder(NamedTuple):
    """Which rows stand where in an epoch: the source's, and the reference's `drawn` (steps, batch) int32 rows."""

    source: EpochOrder
    drawn: jax.Array


def pairs_in_order(num_source: int, num_reference: int, batch_size: int, mesh: Mesh) -> Order:
    """One pass over the source; the reference's rows in an order of their own, each once before any comes again.

    In every batch as many rows of the reference count as of the source: the two share batch statistics.
    """
    layout = layout_on(mesh, num_source, batch_size)

    def order(key: jax.Array) -> PairOrder:
        source_key, reference_key = jax.random.split(key)
        source = epoch_order(source_key, num_source, batch_size, mesh)
        rounds = jax.random.split(reference_key, -(-num_source // num_reference))
        turns = jax.vmap(lambda key: jax.random.permutation(key, num_reference))(rounds)
        return PairOrder(source, lay_out(turns.reshape(-1)[:num_source], layout))

    return order


def pick_pairs(tables: tuple[Batch, Batch], picked: PairOrder) -> Batch:
    """The batch: the source's columns, the reference's `reference_inputs` and `_site`, and the `mask` of both."""
    source, reference = tables
    batch = {name: column[picked.source.rows] for name, column in source.items()}
    batch |= {f"reference_{name}": reference[name][picked.drawn] for name in REFERENCE_COLUMNS}
    return batch | {"mask": jnp.asarray(picked.source.mask)}
