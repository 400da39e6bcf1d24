"""Trains a stage and applies it: tables go to the device as a whole, volumes come from a loader batch by batch."""

import dataclasses
import functools
import pathlib
import warnings
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.volumes.batches import FEWEST_ROWS, batch_slots, count_batches, volume_batches
from eqpool.data.volumes.calibrated import Inputs
from eqpool.engine import data_parallel
from eqpool.engine.divergence import check_steps
from eqpool.engine.loop import fit
from eqpool.engine.state import (
    Stage,
    TrainState,
    Variables,
    create_state,
    finish_epoch,
)
from eqpool.engine.stream import HostBatch, make_stream_forward, make_stream_step, run_stream_epoch, run_stream_forward
from eqpool.engine.table import make_table_epoch, make_table_forward
from eqpool.storage.logs import MemoryLog, MetricsLog
from eqpool.storage.progress import track
from eqpool.storage.run_folder import RunFolder
from eqpool.storage.tensorboard import TensorBoardLog

Columns = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Session:
    """The config, devices and outputs of a run's training.

    Attributes:
      config: the run's config.
      mesh: the devices.
      checkpoints: folder with one subfolder for each stage. None saves no checkpoints.
      log: receives one record an epoch.
      key: the run's random key, from which each stage derives its own.
      names: (N,) names of the cohort's rows, for messages; None if they have no names.
    """

    config: RunConfig
    mesh: Mesh
    checkpoints: pathlib.Path | None
    log: MetricsLog | MemoryLog
    key: jax.Array
    names: np.ndarray | None = None

    @classmethod
    def start(cls, config: RunConfig, folder: RunFolder | None = None, names: np.ndarray | None = None) -> "Session":
        """Starts a session on the config's devices.

        Checkpoints and metrics.jsonl go to `folder`. Without a folder the metrics stay in memory and no checkpoint is
        saved.

        Raises:
          InputError: there are fewer devices than the config asks for, or the config asks for TensorBoard logs and
            tensorboardX is not installed.
        """
        mesh, key = data_parallel.make_mesh(config.devices), jax.random.key(config.seed)
        if folder is None:
            return cls(config, mesh, None, MemoryLog(), key, names)
        make_log = TensorBoardLog if config.output.tensorboard else MetricsLog
        return cls(config, mesh, folder.checkpoints, make_log(folder.metrics_file), key, names)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Rows to train a stage on.

    Attributes:
      inputs: (N, ...), in memory, or read from records row by row.
      columns: further arrays with N rows each, by name.
      train, validation: row indices. The validation rows select the epoch.
      streamed: whether inputs are read batch by batch, as for volumes. Otherwise all inputs go to the device at once.
    """

    inputs: Inputs
    columns: Columns
    train: np.ndarray
    validation: np.ndarray
    streamed: bool = False

    @classmethod
    def of(cls, cohort: Cohort, columns: Columns, train: np.ndarray | None = None) -> "TrainingData":
        """Returns a cohort's rows. `train` replaces its training rows, to leave some of them out."""
        train = cohort.rows("train") if train is None else train
        return cls(cohort.inputs, columns, train, cohort.rows("validation"), cohort.volumes is not None)


def train_stage(session: Session, stage: Stage, data: TrainingData) -> tuple[Variables, Columns]:
    """Trains a stage on the inputs and returns the variables of its best epoch with their outputs for all rows."""
    if data.streamed:
        variables = train_on_volumes(session, stage, data).best_variables
        return variables, forward_on_volumes(session, stage, variables, data)
    table = data.columns | {"inputs": np.asarray(data.inputs)}
    variables = train_on_table(session, stage, table, data.train, data.validation).best_variables
    return variables, forward_on_table(session, stage, variables, table)


def train_on_table(
    session: Session,
    stage: Stage,
    columns: Columns,
    train: np.ndarray,
    validation: np.ndarray,
    constants: Variables | None = None,
) -> TrainState:
    """Trains a stage on columns (N, ...) that fit in device memory; `train` and `validation` are row indices.

    `constants` are collections of variables that training does not change. They replace the stage's initial ones.
    """
    settings = stage.settings
    optimizer = stage.make_optimizer(count_steps(stage, train, settings.batch_size))
    epoch_fn = make_table_epoch(stage, optimizer, settings.batch_size, session.mesh)
    train_table, validation_table = data_parallel.put_replicated(
        [take_rows(columns, train), take_rows(columns, validation)], session.mesh
    )
    init_key, epoch_key = stage_keys(session, stage)

    def run_epoch(state: TrainState, epoch: int):
        number = int(state.step) + 1
        state, terms, scores, each = epoch_fn(state, train_table, validation_table, epoch_key)
        check_steps(each, number)
        return state, terms, scores

    started = stage._replace(initialise=lambda key: stage.initialise(key) | (constants or {}))
    state = data_parallel.put_replicated(create_state(started, optimizer, init_key), session.mesh)
    return fit_stage(session, stage, state, run_epoch, settings.epochs, train)


def train_on_volumes(session: Session, stage: Stage, data: TrainingData) -> TrainState:
    """Trains a stage on volumes that are read batch by batch."""
    columns, train, validation = data.columns, data.train, data.validation
    settings, initialise = stage.settings, stage.initialise
    steps = count_steps(stage, train, settings.batch_size)
    optimizer = stage.make_optimizer(steps)
    step = make_stream_step(stage, optimizer, session.mesh)
    forward = make_stream_forward(stage)
    validate = jax.jit(stage.validate)
    finish = jax.jit(functools.partial(finish_epoch, stage), donate_argnums=0)
    init_key, epoch_key = stage_keys(session, stage)
    validation_columns = data_parallel.put_replicated(take_rows(columns, validation), session.mesh)
    position = np.zeros(len(data.inputs), np.int32)
    position[train] = np.arange(len(train))

    def run_epoch(state: TrainState, epoch: int):
        shuffled = _batches(session, data, columns | {"row": position}, train, settings.batch_size, epoch)
        batches = track(shuffled, f"epoch {epoch + 1}", unit="batch", total=steps)
        state, terms = run_stream_epoch(step, state, batches, epoch_key, session.mesh)
        in_order = _batches(session, data, columns, validation, settings.batch_size, None)
        outputs = run_stream_forward(forward, state.judged, in_order, session.mesh)
        scores = validate(data_parallel.put_replicated(outputs, session.mesh), validation_columns)
        return finish(state, scores), terms, scores

    stage = stage._replace(initialise=lambda key: with_mean_volume(initialise(key), mean_volume(data.inputs, train)))
    state = data_parallel.put_replicated(create_state(stage, optimizer, init_key), session.mesh)
    return fit_stage(session, stage, state, run_epoch, settings.epochs, train)


def mean_volume(inputs: Inputs, rows: np.ndarray) -> np.ndarray:
    """Computes the mean of some rows, reading one row at a time."""
    total = np.zeros(inputs.shape[1:], np.float64)
    for row in track(rows, "Averaging", unit="volume"):
        total += inputs[row]
    return (total / len(rows)).astype(np.float32)


def with_mean_volume(variables: Variables, mean: np.ndarray) -> Variables:
    """Returns a stage's variables with the decoder's constant set, so that D learns differences from the mean."""
    constants = variables["constants"]
    return variables | {"constants": constants | {"decoder": {"mean": jnp.asarray(mean)}}}


def forward_on_table(session: Session, stage: Stage, variables, columns: Columns) -> Columns:
    """Returns a trained stage's outputs for all rows of a table, on the host."""
    batch_size = stage.settings.batch_size
    table = data_parallel.put_replicated(columns, session.mesh)
    compute = make_table_forward(stage, batch_size, session.mesh)
    return data_parallel.to_host(compute(variables, table))


def forward_on_volumes(session: Session, stage: Stage, variables: Variables, data: TrainingData) -> Columns:
    """Returns a trained stage's outputs for all volumes, on the host."""
    settings = stage.settings
    rows = np.arange(len(data.inputs))
    steps = count_batches(rows, min(settings.batch_size, len(rows)))
    in_order = _batches(session, data, data.columns, rows, settings.batch_size, None)
    batches = track(in_order, f"Encoding by {stage.name}", unit="batch", total=steps)
    return run_stream_forward(make_stream_forward(stage), variables, batches, session.mesh)


def fit_stage(
    session: Session, stage: Stage, state: TrainState, run_epoch, epochs: int, train: np.ndarray, patience: int = 0
) -> TrainState:
    """Trains a stage from a state on the rows `train`, and saves and logs as the session has it.

    The other arguments are those of `eqpool.engine.loop.fit`.
    """
    save_every = stage.settings.checkpoint_every_epochs
    folder = session.checkpoints / stage.name if session.checkpoints else None
    names = None if session.names is None else session.names[train]
    return fit(stage.name, state, run_epoch, epochs, folder, save_every, session.log, patience, names)


def stage_keys(session: Session, stage: Stage) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of a stage's initial variables and of its epochs."""
    init_key, epoch_key = jax.random.split(stage.fold_in(session.key))
    return init_key, epoch_key


def count_steps(stage: Stage, train: np.ndarray, batch_size: int) -> int:
    """Counts an epoch's steps, and warns if there are fewer training rows than a step should have."""
    if len(train) < FEWEST_ROWS:
        warnings.warn(
            f"{stage.name} has {len(train)} training rows: batch statistics and losses of fewer than {FEWEST_ROWS} "
            "rows are noise",
            stacklevel=3,
        )
    return count_batches(train, batch_size)


def take_rows(columns: Columns, rows: np.ndarray) -> Columns:
    """Returns the given rows (R,) of every column (N, ...)."""
    return {name: column[rows] for name, column in columns.items()}


def _batches(
    session: Session, data: TrainingData, columns: Columns, rows: np.ndarray, batch_size: int, epoch: int | None
) -> Iterator[HostBatch]:
    """Yields this process's part of the loader's batches, with their columns; `epoch` None reads the rows in order."""
    size = min(batch_size, len(rows))
    padded_size = data_parallel.padded_size(batch_slots(len(rows), size), session.mesh)
    batches = volume_batches(
        data.inputs,
        rows,
        batch_size=size,
        padded_size=padded_size,
        part=data_parallel.own_rows(padded_size),
        columns=columns,
        seed=session.config.seed,
        epoch=epoch or 0,
        shuffle=epoch is not None,
    )
    for batch in batches:
        del batch["index"]
        yield batch
