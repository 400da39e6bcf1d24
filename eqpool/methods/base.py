"""The contract of a method: its training, loading and application. Every command is a thin caller of it."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from eqpool.config import RunConfig
from eqpool.config.methods import METHODS
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.shape import DataShape
from eqpool.data.tables.participants import ParticipantsTable
from eqpool.data.volumes.batches import batch_sizes, batch_slots
from eqpool.data.volumes.preparation import PreparedScan
from eqpool.engine.session import Session
from eqpool.engine.state import Stage
from eqpool.storage.run_folder import RunFolder

Outputs = dict[str, np.ndarray]
Say = Callable[[str], None]


class Outcome(NamedTuple):
    """The outcome of training.

    Attributes:
      metrics: metrics of the held-out rows, ready for results.json.
      dropped: number of training rows that the method could not use.
      scorecard: scores of what is handed back, ready for results.json; None if it is not scored.
      warning: a line on training that went wrong, with the setting to change; "" if it did not.
    """

    metrics: dict[str, Any]
    dropped: int = 0
    scorecard: dict[str, Any] | None = None
    warning: str = ""


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """One stage of a run, before it is trained.

    Attributes:
      stage: the stage, with its initial values, loss and so on.
      batch: shape and dtype of every column of a batch.
      steps: updates an epoch.
    """

    stage: Stage
    batch: dict[str, jax.ShapeDtypeStruct]
    steps: int

    @classmethod
    def of(cls, stage: Stage, columns: Mapping[str, Any], rows: int) -> "PlannedStage":
        """Returns the plan of a stage that is trained on `rows` rows of columns (N, ...)."""
        batch_size = min(stage.settings.batch_size, rows)
        size = batch_slots(rows, batch_size)
        batch = {
            name: jax.ShapeDtypeStruct((size, *column.shape[1:]), column.dtype) for name, column in columns.items()
        }
        count = len(batch_sizes(rows, batch_size))
        return cls(stage, batch | {"mask": jax.ShapeDtypeStruct((size,), jnp.float32)}, count)


@dataclasses.dataclass(frozen=True)
class NewScans:
    """New scans for a finished run.

    Attributes:
      table: rows of the scans.
      sources: image of each row; empty for a run on a table.
      root: folder of the images' data set.
      prepare: opens the stream of prepared volumes, without the rows that are left out.
    """

    table: ParticipantsTable
    sources: list[pathlib.Path]
    root: pathlib.Path
    prepare: Callable[[], AbstractContextManager[Iterator[PreparedScan]]]


class TrainedModel(Protocol):
    """The trained networks of a method."""

    def table_file(self, output: RunFolder) -> pathlib.Path:
        """Returns the file of the table that `write` returns."""
        ...

    @property
    def reference_site(self) -> str:
        """The site whose appearance other sites are given; "" for a method without a reference."""
        ...

    def calibrated_on(self, controls: NewScans, say: Say) -> "TrainedModel":
        """Returns a copy in which rows of the controls' sites are corrected by effects learnt from the controls.

        Args:
          controls: a few volumes or rows of each site, with the run's column of sites and its covariates.
          say: receives one line for each site.

        Raises:
          InputError: the method cannot be calibrated, or the controls lack a site or a covariate.
        """
        ...

    @property
    def calibration(self) -> Any:
        """The site calibration, with `to_arrays`; None without one."""
        ...

    def write(self, scans: NewScans, output: RunFolder, harmonised: str | None, say: Say) -> pd.DataFrame:
        """Applies the model to new scans and writes the results under `output`.

        Args:
          scans: volumes, or rows of a table.
          output: output folder, created if missing.
          harmonised: form of the harmonised data, one of the values of `config.output.harmonised`; None for that of the
            run's config.
          say: receives one line for each notice to the user.

        Returns:
          One row for each scan that was written, with participant_id and site.

        Raises:
          InputError: one line naming the file, row and column.
        """
        ...


class Method(Protocol):
    """A way to pool or to harmonise, from a checked config to a trained model. It holds no state."""

    decodes: bool  # whether its latents can be decoded to volumes, which maps require

    def scaling(self, config: RunConfig, cohort: Cohort) -> Scaling:
        """Scales covariates and target by the rows that the method may use for this.

        Raises:
          InputError: the method cannot be trained on this cohort.
        """
        ...

    def reference(self, config: RunConfig, cohort: Cohort) -> str:
        """Returns the site whose look the other sites take, "" for none."""
        ...

    def stages(self, config: RunConfig, shape: DataShape) -> tuple[Stage, ...]:
        """Returns the stages in training order."""
        ...

    def plan(self, config: RunConfig, cohort: Cohort) -> list[PlannedStage]:
        """Returns the stages that `fit` would train."""
        ...

    def fit(self, session: Session, cohort: Cohort, scaling: Scaling, folder: RunFolder) -> Outcome:
        """Trains, evaluates on held-out rows and writes the method's own files to the run folder."""
        ...

    def load(self, folder: RunFolder, config: RunConfig | None = None) -> TrainedModel:
        """Loads the networks of a trained run at their selected epochs.

        Args:
          folder: folder of the run.
          config: config of the run, possibly with other output settings; None reads it from the folder.

        Raises:
          InputError: a file is missing, unreadable or of another version.
        """
        ...


def method_named(name: str) -> Method:
    """Returns the method that `config.method` names. No other function picks the class."""
    module, _, implementation = METHODS[name].path.partition(":")
    return getattr(importlib.import_module(module), implementation)()


def load_trained(folder: RunFolder) -> TrainedModel:
    """Loads the model of a finished run of any method.

    Raises:
      InputError: a file is missing, unreadable or of another version.
    """
    return method_named(folder.read_config().method).load(folder)
