"""The dry run: reports a run's stages, their batch shapes, size and pace before training."""

import time
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort
from eqpool.engine import data_parallel
from eqpool.engine.state import create_state
from eqpool.engine.stream import make_stream_step
from eqpool.methods.base import PlannedStage, method_named

_TIMED_STEPS = 3


class Cost(NamedTuple):
    """The cost of a stage: its number of parameters, memory in bytes and median time of a step in seconds.

    The memory covers state, batch and intermediate results.
    """

    parameters: int
    memory_bytes: int
    step_seconds: float


def measure(planned: PlannedStage, mesh: Mesh) -> Cost:
    """Compiles one step and runs it on zeros, to measure the stage's cost on these devices without training."""
    key, optimizer = jax.random.key(0), planned.stage.make_optimizer(planned.steps)
    state = data_parallel.put_replicated(create_state(planned.stage, optimizer, key), mesh)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.variables["params"]))
    padded = {name: (data_parallel.padded_size(len(one), mesh), *one.shape[1:]) for name, one in planned.batch.items()}
    zeros = {name: np.zeros(shape, planned.batch[name].dtype) for name, shape in padded.items()}
    batch = data_parallel.put_by_row(zeros, mesh)
    step = make_stream_step(planned.stage, optimizer, mesh).lower(state, batch, key).compile()
    memory = step.memory_analysis()
    seconds = []
    for _ in range(1 + _TIMED_STEPS):
        started = time.perf_counter()
        state, terms = step(state, batch, key)
        jax.block_until_ready((state, terms))
        seconds.append(time.perf_counter() - started)
    in_use = memory.argument_size_in_bytes + memory.temp_size_in_bytes if memory else 0
    return Cost(parameters, in_use, float(np.median(seconds[1:])))


def describe_plan(config: RunConfig, cohort: Cohort) -> str:
    """Returns the dry run's table with parameters, memory and expected time of each stage."""
    mesh = data_parallel.make_mesh(config.devices)
    lines = [
        f"{'stage':<10} {'parameters':>12} {'memory MB':>10} {'batch':>6} {'steps x epochs':>15} {'s a step':>9}  about"
    ]
    for planned in method_named(config.method).plan(config, cohort):
        cost = measure(planned, mesh)
        total = cost.step_seconds * planned.steps * planned.stage.settings.epochs
        pace = f"{planned.steps} x {planned.stage.settings.epochs}"
        lines.append(
            f"{planned.stage.name:<10} {cost.parameters:>12,} {cost.memory_bytes / 1e6:>10,.0f} "
            f"{len(planned.batch['mask']):>6} {pace:>15} {cost.step_seconds:>9.3g}  {_duration(total)}"
        )
    return "\n".join([*lines, "Not counted: preparing the data, compiling, validation and evaluation."])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
