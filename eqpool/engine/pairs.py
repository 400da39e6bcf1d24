"""The ISTN's batches: images of the source beside unpaired images of the reference."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from eqpool.engine.image_table import Order
from eqpool.engine.state import Batch
from eqpool.engine.table import EpochOrder, epoch_order, lay_out, layout_on

# Training reads only these columns of the reference. The reference's targets are for evaluation.
REFERENCE_COLUMNS = ("inputs", "site")


class Pairs(NamedTuple):
    """Row indices of the source's and the reference's tables, by split."""

    source_train: np.ndarray
    reference_train: np.ndarray
    source_validation: np.ndarray
    reference_validation: np.ndarray


class PairOrder(NamedTuple):
    """The rows of an epoch's batches: the source's order, and `drawn` (steps, batch) int32 rows of the reference."""

    source: EpochOrder
    drawn: jax.Array


def pairs_in_order(num_source: int, num_reference: int, batch_size: int, mesh: Mesh) -> Order:
    """Makes the order of one pass over the source, with the reference's rows shuffled independently.

    Each reference row appears once before any appears again. Every batch has as many valid reference rows as source
    rows, because the two share batch statistics.
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
    """Returns a batch: the source's columns, `reference_inputs`, `reference_site`, and the `mask` that both share."""
    source, reference = tables
    batch = {name: column[picked.source.rows] for name, column in source.items()}
    batch |= {f"reference_{name}": reference[name][picked.drawn] for name in REFERENCE_COLUMNS}
    return batch | {"mask": jnp.asarray(picked.source.mask)}
