"""Epochs over volumes that stay in host memory or on disk: a loader feeds a jitted step."""

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


def make_stream_step(stage: Stage, optimizer: optax.GradientTransformation, mesh: Mesh) -> jax.stages.Wrapped:
    """Makes the jitted step: (state, batch, stage key) -> (state, loss terms). The state is donated.

    The state stays replicated over the mesh, also where a stage keeps rows of its batches in it.
    """

    def step(state: TrainState, batch: Batch, key: jax.Array):
        state, terms = update(stage, optimizer, state, batch, jax.random.fold_in(key, state.step))
        state = jax.lax.with_sharding_constraint(state, data_parallel.replicated(mesh))
        return state, terms | {"rows": batch["mask"].sum()}

    return jax.jit(step, donate_argnums=0)


def run_stream_epoch(
    step: Callable, state: TrainState, batches: Iterable[HostBatch], key: jax.Array, mesh: Mesh
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs one pass over the loader and returns the state with the mean loss terms over all rows.

    Each batch holds the positions of its rows as `row`.

    Raises:
      BadBatch: terms of a step are not finite. Each step is checked after the next one has started, so that the device
        never waits for the check.
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
    """Makes the jitted inference function of one batch: (variables, batch) -> per-row outputs."""
    return jax.jit(stage.forward)


def run_stream_forward(
    forward: Callable, variables: Any, batches: Iterator[HostBatch], mesh: Mesh
) -> dict[str, np.ndarray]:
    """Returns the inference outputs of all rows on every host, without padding, in the loader's order."""
    collected: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        on_devices = data_parallel.put_by_row(batch, mesh)
        outputs, mask = data_parallel.to_host((forward(variables, on_devices), on_devices["mask"]))
        for name, value in outputs.items():
            collected.setdefault(name, []).append(value[mask > 0])
    return {name: np.concatenate(parts) for name, parts in collected.items()}
