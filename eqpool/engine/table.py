"""Epochs over a table that fits in device memory: one `lax.scan` an epoch, without the host in between."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from eqpool.data.volumes.batches import batch_slots, epoch_layout
from eqpool.engine import data_parallel
from eqpool.engine.divergence import StepTerms
from eqpool.engine.state import Batch, Stage, TrainState, finish_epoch, update

Scalars = dict[str, jax.Array]


class EpochOrder(NamedTuple):
    """The rows of an epoch's batches: `rows` (steps, batch) int32 and `mask` (steps, batch) float32, 0 for padding."""

    rows: jax.Array
    mask: jax.Array


def epoch_order(key: jax.Array, num_rows: int, batch_size: int, mesh: Mesh) -> EpochOrder:
    """Shuffles `num_rows` rows and splits them into batches by `batch_sizes`. Empty slots are masked."""
    layout = layout_on(mesh, num_rows, batch_size)
    order = jax.random.permutation(key, jnp.arange(num_rows, dtype=jnp.int32))
    return EpochOrder(lay_out(order, layout), lay_out(jnp.ones(num_rows, jnp.float32), layout))


def layout_on(mesh: Mesh, num_rows: int, batch_size: int) -> np.ndarray:
    """Computes `epoch_layout` (steps, slots), with slots that the devices of a mesh can share evenly."""
    return epoch_layout(num_rows, batch_size, data_parallel.padded_size(batch_slots(num_rows, batch_size), mesh))


def lay_out(order: jax.Array, layout: np.ndarray) -> jax.Array:
    """Puts values (N,) into the slots of a layout (steps, slots) by `epoch_layout`, and 0 into empty slots."""
    return jnp.pad(order, (0, 1))[layout]  # `PADDING` is -1, which picks the appended 0


@functools.lru_cache(maxsize=64)
def make_table_epoch(
    stage: Stage, optimizer: optax.GradientTransformation, batch_size: int, mesh: Mesh
) -> Callable[[TrainState, Batch, Batch, jax.Array], tuple[TrainState, Scalars, Scalars, StepTerms]]:
    """Makes the jitted epoch function.

    The function maps (state, training table, validation table, stage key) to (state, loss terms, validation scalars,
    steps). The random numbers depend only on the key and the state's epoch and step, so a resumed run repeats the same
    steps. The state is donated.
    """

    def epoch(state: TrainState, table: Batch, validation: Batch, key: jax.Array):
        order_key, step_key = jax.random.split(jax.random.fold_in(key, state.epoch))
        order = epoch_order(order_key, _num_rows(table), batch_size, mesh)

        def step(state: TrainState, picked: EpochOrder):
            batch = {name: column[picked.rows] for name, column in table.items()} | {"mask": picked.mask}
            batch = jax.lax.with_sharding_constraint(batch, data_parallel.by_row(mesh))
            state, terms = update(stage, optimizer, state, batch, jax.random.fold_in(step_key, state.step))
            return state, (terms, picked.mask.sum())

        state, (each, counts) = jax.lax.scan(step, state, order)
        terms = {name: jnp.sum(values * counts) / counts.sum() for name, values in each.items()}
        outputs = forward_table(stage, state.judged, validation, batch_size, mesh)
        scores = stage.validate(outputs, validation)
        state = finish_epoch(stage, state, scores)
        state = jax.lax.with_sharding_constraint(state, data_parallel.replicated(mesh))  # also rows that a stage keeps
        return state, terms, scores, StepTerms(each, order.rows, order.mask)

    return jax.jit(epoch, donate_argnums=0)


@functools.lru_cache(maxsize=64)
def make_table_forward(stage: Stage, batch_size: int, mesh: Mesh) -> Callable[..., dict[str, jax.Array]]:
    """Makes the jitted `forward_table`: (variables, table) -> outputs."""
    return jax.jit(lambda variables, table: forward_table(stage, variables, table, batch_size, mesh))


def forward_table(stage: Stage, variables, table: Batch, batch_size: int, mesh: Mesh) -> dict[str, jax.Array]:
    """Computes a stage's inference outputs for all rows of a table, in order, batch by batch.

    The function is pure, and callers jit it. Inference treats each row independently, so the last batch may have any
    number of rows.
    """
    num_rows = _num_rows(table)
    size = data_parallel.padded_size(min(batch_size, num_rows), mesh)
    spare = -num_rows % size
    rows = jnp.pad(jnp.arange(num_rows, dtype=jnp.int32), (0, spare)).reshape(-1, size)
    order = EpochOrder(rows, jnp.pad(jnp.ones(num_rows, jnp.float32), (0, spare)).reshape(-1, size))

    def step(_, picked: EpochOrder):
        batch = {name: column[picked.rows] for name, column in table.items()} | {"mask": picked.mask}
        return None, stage.forward(variables, jax.lax.with_sharding_constraint(batch, data_parallel.by_row(mesh)))

    _, outputs = jax.lax.scan(step, None, order)
    return {name: value.reshape(-1, *value.shape[2:])[:num_rows] for name, value in outputs.items()}


def _num_rows(table: Batch) -> int:
    return next(iter(table.values())).shape[0]
