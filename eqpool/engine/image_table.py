"""Epochs over images that fit in device memory, one jitted step after the other.

`eqpool.engine.table` runs an epoch as one `lax.scan`. That form is slow for convolutions on a CPU, where XLA runs
convolutions inside a loop on its slow path. A step of Table 5's classifier with batches of 64 took 267 ms in a scan and
31 ms on its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from eqpool.engine import data_parallel
from eqpool.engine.divergence import StepTerms, check_steps
from eqpool.engine.state import Batch, Stage, TrainState, update
from eqpool.engine.table import epoch_order

Scalars = dict[str, jax.Array]
# (tables on the device, one step's part of the order) -> the batch of that step, with its `mask`
Pick = Callable[[Any, Any], Batch]
# (epoch key) -> the order of an epoch, a pytree of arrays with the steps as leading axis
Order = Callable[[jax.Array], Any]


def make_image_epoch(
    stage: Stage, optimizer: optax.GradientTransformation, order: Order, pick: Pick, mesh: Mesh
) -> Callable[[TrainState, Any, jax.Array], tuple[TrainState, Scalars]]:
    """Makes the epoch function: (state, tables, stage key) -> (state, mean loss terms).

    The random numbers depend only on the key and the state's epoch and step. The state is donated, and its epoch
    counter stays the same. The function raises `BadBatch`, with the rows of the first table, if a step's terms are not
    finite.
    """

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, tables: Any, picked: Any, key: jax.Array):
        batch = jax.lax.with_sharding_constraint(pick(tables, picked), data_parallel.by_row(mesh))
        state, terms = update(stage, optimizer, state, batch, jax.random.fold_in(key, state.step))
        return state, terms | {"rows": batch["mask"].sum()}

    @jax.jit
    def draw(key: jax.Array, epoch: jax.Array):
        order_key, step_key = jax.random.split(jax.random.fold_in(key, epoch))
        return order(order_key), step_key

    def epoch(state: TrainState, tables: Any, key: jax.Array) -> tuple[TrainState, Scalars]:
        first = int(state.step) + 1
        drawn, step_key = draw(key, state.epoch)
        drawn = jax.device_get(drawn)
        each = []
        for number in range(len(jax.tree.leaves(drawn)[0])):
            picked = jax.tree.map(lambda values, number=number: values[number], drawn)
            state, terms = step(state, tables, picked, step_key)
            each.append(terms)
        order_of_first = getattr(drawn, "source", drawn)
        stacked = {name: jnp.stack([terms[name] for terms in each]) for name in each[0]}
        check_steps(StepTerms(stacked, order_of_first.rows, order_of_first.mask), first)
        return state, _mean_terms(stacked)

    return epoch


def make_image_forward(stage: Stage, batch_size: int, mesh: Mesh) -> Callable[[Any, Batch], dict[str, np.ndarray]]:
    """Makes the function (variables, table on the device) -> inference outputs of all rows, in order, on the host."""
    padded_batch = data_parallel.padded_size(batch_size, mesh)

    @jax.jit
    def step(variables: Any, table: Batch, rows: jax.Array):
        batch = {name: column[rows] for name, column in table.items()}
        return stage.forward(variables, jax.lax.with_sharding_constraint(batch, data_parallel.by_row(mesh)))

    def forward(variables: Any, table: Batch) -> dict[str, np.ndarray]:
        count = len(table["inputs"])
        rows = np.arange(-(-count // padded_batch) * padded_batch, dtype=np.int32).reshape(-1, padded_batch)
        each = [data_parallel.to_host(step(variables, table, np.minimum(one, count - 1))) for one in rows]
        return {name: np.concatenate([outputs[name] for outputs in each])[:count] for name in each[0]}

    return forward


def rows_in_order(num_rows: int, batch_size: int, mesh: Mesh) -> Order:
    """Makes the function that shuffles the rows of one table, for `pick_rows`."""
    return lambda key: epoch_order(key, num_rows, batch_size, mesh)


def pick_rows(table: Batch, picked: Any) -> Batch:
    """Returns the batch of one table's rows, with its `mask`."""
    return {name: column[picked.rows] for name, column in table.items()} | {"mask": jnp.asarray(picked.mask)}


def _mean_terms(stacked: Scalars) -> Scalars:
    """Averages loss terms (S,) over an epoch's steps, weighted by each step's number of `rows` (S,)."""
    counts = stacked["rows"]
    return {name: jnp.sum(values * counts) / counts.sum() for name, values in stacked.items() if name != "rows"}
