"""What a run will train, before it does: its stages, the shape of their batches, their size and their pace."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from eqpool.config import RunConfig, TrainingConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.volumes.batches import batch_sizes, batch_slots
from eqpool.engine import data_parallel
from eqpool.engine.pairs import REFERENCE_COLUMNS, make_game_optimizer
from eqpool.engine.state import Stage, create_state, make_optimizer
from eqpool.engine.stream import make_stream_step
from eqpool.methods.istn import check_images, rows_of_sides
from eqpool.objectives.baselines import covariate_deciles, make_baseline, match_groups, rows_with_partner
from eqpool.objectives.istn import make_istn
from eqpool.objectives.stage_one import make_stage_one
from eqpool.objectives.stage_two import make_stage_two
from eqpool.objectives.task import make_task

_TIMED_STEPS = 3

BatchShape = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """One stage of a run.

    Attributes:
      stage: with its initial values, loss and so on.
      optimizer: that updates it.
      batch: the shape and dtype of every column of a batch.
      steps: updates an epoch.
      epochs: at most; some stages stop early.
    """

    stage: Stage
    optimizer: optax.GradientTransformation
    batch: BatchShape
    steps: int
    epochs: int


class Cost(NamedTuple):
    """Of a stage: parameters in all; bytes of state, batch and intermediate results; seconds a step, its median."""

    parameters: int
    memory_bytes: int
    step_seconds: float


def plan(config: RunConfig, cohort: Cohort) -> list[PlannedStage]:
    """The stages that `config.method` trains on a cohort, in order."""
    columns = Scaling.fit(cohort).columns(cohort) | {"inputs": cohort.inputs}
    if config.method == "istn":
        check_images(config, cohort)
        return _plan_istn(config, cohort, columns)
    shape, num_sites, num_classes = cohort.inputs.shape[1:], len(cohort.site_names), len(cohort.target_classes)
    if config.method != "ours":
        columns |= {"decile": covariate_deciles(cohort), "match": match_groups(cohort)}
        stage = make_baseline(config, shape, num_sites, num_classes)
        return [_planned(stage, config.baseline, columns, len(rows_with_partner(cohort, config.method)))]
    rows, nuisances = len(cohort.rows("train")), tuple(map(len, cohort.nuisance_levels))
    first = make_stage_one(config, shape, cohort.covariates.shape[1], num_sites, num_classes, nuisances)
    second = make_stage_two(config, num_sites, num_classes, nuisances)
    latent = config.model.latent_dim
    latents = {name: column for name, column in columns.items() if name != "inputs"}
    latents |= {"latent": np.empty((0, latent), np.float32), "tau": np.empty((0, latent, latent), np.float32)}
    return [_planned(first, config.stage_one, columns, rows), _planned(second, config.stage_two, latents, rows)]


def _plan_istn(config: RunConfig, cohort: Cohort, columns: Mapping[str, Any]) -> list[PlannedStage]:
    shape, num_classes = cohort.inputs.shape[1:], len(cohort.target_classes)
    rows = len(rows_of_sides(config, cohort)["source", "train"])
    task = make_task(config, shape, num_classes)
    pretrained = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(task.initialise, jax.random.key(0))
    )
    stage = make_istn(config, shape, len(cohort.site_names), num_classes, pretrained)
    paired = dict(columns) | {f"reference_{name}": columns[name] for name in REFERENCE_COLUMNS}
    planned = _planned(stage, config.istn, paired, rows)
    optimizer = make_game_optimizer(config.istn, planned.steps)
    return [_planned(task, config.task, columns, rows), dataclasses.replace(planned, optimizer=optimizer)]


def _planned(stage: Stage, settings: TrainingConfig, columns: Mapping[str, Any], rows: int) -> PlannedStage:
    batch_size = min(settings.batch_size, rows)
    size = batch_slots(rows, batch_size)
    batch = {name: jax.ShapeDtypeStruct((size, *column.shape[1:]), column.dtype) for name, column in columns.items()}
    batch["mask"] = jax.ShapeDtypeStruct((size,), jnp.float32)
    steps = len(batch_sizes(rows, batch_size))
    return PlannedStage(stage, make_optimizer(settings, steps), batch, steps, settings.epochs)


def measure(planned: PlannedStage, mesh: Mesh) -> Cost:
    """Compiles one step and runs it on zeros: what the stage costs on these devices, without training it."""
    key = jax.random.key(0)
    state = data_parallel.put_replicated(create_state(planned.stage, planned.optimizer, key), mesh)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.variables["params"]))
    padded = {name: (data_parallel.padded_size(len(one), mesh), *one.shape[1:]) for name, one in planned.batch.items()}
    zeros = {name: np.zeros(shape, planned.batch[name].dtype) for name, shape in padded.items()}
    batch = data_parallel.put_by_row(zeros, mesh)
    step = make_stream_step(planned.stage, planned.optimizer).lower(state, batch, key).compile()
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
    """The dry run's table: parameters, memory and expected time of each stage."""
    mesh = data_parallel.make_mesh(config.devices)
    lines = [
        f"{'stage':<10} {'parameters':>12} {'memory MB':>10} {'batch':>6} {'steps x epochs':>15} {'s a step':>9}  about"
    ]
    for planned in plan(config, cohort):
        cost = measure(planned, mesh)
        total = cost.step_seconds * planned.steps * planned.epochs
        pace = f"{planned.steps} x {planned.epochs}"
        lines.append(
            f"{planned.stage.name:<10} {cost.parameters:>12,} {cost.memory_bytes / 1e6:>10,.0f} "
            f"{len(planned.batch['mask']):>6} {pace:>15} {cost.step_seconds:>9.3g}  {_duration(total)}"
        )
    return "\n".join([*lines, "Not counted: preparing the data, compiling, validation and evaluation."])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
