"""Epochs over volumes that stay in host memory or on disk: a jitted step fed by a loader."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from eqpool.engine import data_parallel
from eqpool.engine.divergence import StepTerms, check_steps
from eqpool.engine.state import Batch, Stage, TrainState, update

HostBatch = dict[str, np.ndarray]


def make_stream_step(stage: Stage, optimizer: optax.GradientTransformation) -> jax.stages.Wrapped:
    """The jitted step: (state, batch, stage key) -> (state, loss terms). The state is donated."""

    def step(state: TrainState, batch: Batch, key: jax.Array):
        state, terms = update(stage, optimizer, state, batch, jax.random.fold_in(key, state.step))
        return state, terms | {"rows": batch["mask"].sum()}

    return jax.jit(step, donate_argnums=0)


def run_stream_epoch(
    step: Callable, state: TrainState, batches: Iterable[HostBatch], key: jax.Array, mesh: Mesh
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One pass over the loader, whose batches tell their rows as `row`; the loss terms are means over all its rows.

    Raises:
      BadBatch: terms that are not finite, a step late: the device has its next batch before it is asked about the last.
    """
    sums: dict[str, jax.Array] = {}
    number, before = int(state.step), None
    for batch in batches:
        rows = batch.pop("row")
        state, terms = step(state, data_parallel.put_by_row(batch, mesh), key)
        if before is not None:
            check_steps(before, number)
        number += 1
        before = StepTerms(jax.tree.map(lambda value: value[None], terms), rows[None], batch["mask"][None])
        weighted = {name: value * terms["rows"] for name, value in terms.items() if name != "rows"}
        weighted["rows"] = terms["rows"]
        sums = jax.tree.map(jnp.add, sums, weighted) if sums else weighted
        if isinstance(batches, tqdm) and not batches.disable:
            batches.set_postfix(loss=f"{float(terms['loss']):.3g}")
    if before is not None:
        check_steps(before, number)
    count = sums.pop("rows")
    return state, {name: value / count for name, value in sums.items()}


def make_stream_forward(stage: Stage) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """The jitted inference outputs of one batch: (variables, batch) -> per-row outputs."""
    return jax.jit(stage.forward)


def run_stream_forward(
    forward: Callable, variables: Any, batches: Iterator[HostBatch], mesh: Mesh
) -> dict[str, np.ndarray]:
    """The inference outputs of every row, on every host, padding removed, in the loader's order."""
    collected: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        on_devices = data_parallel.put_by_row(batch, mesh)
        outputs, mask = data_parallel.to_host((forward(variables, on_devices), on_devices["mask"]))
        for name, value in outputs.items():
            collected.setdefault(name, []).append(value[mask > 0])
    return {name: np.concatenate(parts) for name, parts in collected.items()}
