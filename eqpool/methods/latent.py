"""The shared part of methods with one latent for each scan: training, evaluation and loading."""

import abc
from typing import Any, ClassVar, NamedTuple

import numpy as np

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.shape import DataShape
from eqpool.engine.selected import selected_variables
from eqpool.engine.session import Columns, Session, TrainingData
from eqpool.engine.state import Stage, Variables
from eqpool.errors import InputError
from eqpool.evaluate.evaluation import evaluate
from eqpool.evaluate.outputs import Embeddings, only_finite
from eqpool.evaluate.site_floor import cached_site_floor
from eqpool.methods.base import Outcome, PlannedStage, method_named
from eqpool.methods.calibration import read_calibration
from eqpool.methods.facts import ModelFacts
from eqpool.methods.handed_back import EQPOOL, score_table, score_volumes
from eqpool.methods.latent_model import Decode, Encode, LatentModel
from eqpool.methods.run_tables import embeddings_table
from eqpool.methods.scored_voxels import ScoredVoxels
from eqpool.objectives.stage_one import covariate_generators
from eqpool.storage import files
from eqpool.storage.run_folder import NON_FINITE_ROWS, RunFolder

MOST_DRAWN = 1000  # most rows of tau for the report


class Harmonised(NamedTuple):
    """What is known of the harmonised data of a run.

    Attributes:
      metrics: metrics of the held-out rows.
      scorecard: scores of what is handed back, None if it is not scored.
    """

    metrics: dict[str, Any] = {}
    scorecard: dict[str, Any] | None = None


class LatentMethod(abc.ABC):
    """A method with one latent for each scan. Subclasses define the stages and their training."""

    decodes: ClassVar[bool] = False

    @abc.abstractmethod
    def stages(self, config: RunConfig, shape: DataShape) -> tuple[Stage, ...]:
        """Returns the stages in training order."""

    @abc.abstractmethod
    def train_stages(self, session: Session, shape: DataShape, data: TrainingData) -> Embeddings:
        """Trains the stages and returns the embeddings of every row at their selected epochs."""

    @abc.abstractmethod
    def networks(
        self, config: RunConfig, shape: DataShape, variables: tuple[Variables, ...]
    ) -> tuple[Encode, Decode | None]:
        """Returns the encoder of trained stages, and their decoder if they have one.

        `variables` has the order of `stages`.
        """

    def scaling(self, config: RunConfig, cohort: Cohort) -> Scaling:
        """Scales covariates and target by all training rows."""
        return Scaling.fit(cohort)

    def reference(self, config: RunConfig, cohort: Cohort) -> str:
        """Returns `config.data.reference`."""
        return config.data.reference

    def columns(self, cohort: Cohort, scaling: Scaling) -> Columns:
        """Returns the columns that training reads in addition to the inputs, with one entry a row."""
        return scaling.columns(cohort)

    def training_rows(self, config: RunConfig, cohort: Cohort) -> np.ndarray:
        """Returns the training rows that the method can use."""
        return cohort.rows("train")

    def plan(self, config: RunConfig, cohort: Cohort) -> list[PlannedStage]:
        """Returns the stages that `fit` would train. By default all stages read the inputs."""
        columns = self.columns(cohort, self.scaling(config, cohort)) | {"inputs": cohort.inputs}
        rows = len(self.training_rows(config, cohort))
        return [PlannedStage.of(stage, columns, rows) for stage in self.stages(config, DataShape.of(cohort))]

    def train(self, session: Session, cohort: Cohort, scaling: Scaling) -> tuple[Embeddings, np.ndarray]:
        """Trains the method and returns the embeddings of every row and the indices of the rows used for training."""
        rows = self.training_rows(session.config, cohort)
        data = TrainingData.of(cohort, self.columns(cohort, scaling), rows)
        return self.train_stages(session, DataShape.of(cohort), data), rows

    def fit(self, session: Session, cohort: Cohort, scaling: Scaling, folder: RunFolder) -> Outcome:
        """Trains, writes embeddings.tsv and images/tau.npz, and evaluates the held-out rows."""
        config = session.config
        embeddings, train_rows = self.train(session, cohort, scaling)
        table = embeddings_table(cohort, embeddings)
        files.write_table(folder.embeddings_file, table)
        if embeddings.tau is not None:
            rows = cohort.rows("test")[:MOST_DRAWN]
            files.write_arrays(folder.tau_file, {"rows": rows, "tau": embeddings.tau[rows]})
        generators = covariate_generators(config.model, cohort.covariates.shape[1])
        metrics = evaluate(
            cohort, scaling, embeddings, generators, config.model.group_map, config.evaluate, config.seed
        )
        metrics |= cached_site_floor(cohort, config.evaluate, folder.cache(config))
        dropped, harmonised = len(cohort.rows("train")) - len(train_rows), Harmonised()
        if NON_FINITE_ROWS not in metrics:
            harmonised = self.harmonise(cohort, scaling, config, folder)
        return Outcome(metrics | only_finite(harmonised.metrics), dropped, harmonised.scorecard)

    def harmonise(self, cohort: Cohort, scaling: Scaling, config: RunConfig, folder: RunFolder) -> Harmonised:
        """Writes, measures and scores the harmonised data of a run. The default has none, and scores raw and ComBat."""
        if not config.evaluate.scorecard:
            return Harmonised()
        if cohort.volumes is not None:
            voxels = ScoredVoxels(cohort, config.seed, EQPOOL)
            voxels.take_inputs(cohort, squash=config.data.squash, workers=config.data.workers)
            return Harmonised(scorecard=score_volumes(cohort, config, voxels))
        return Harmonised(scorecard=None if cohort.table is None else score_table(cohort, config, None, EQPOOL))

    def load(self, folder: RunFolder, config: RunConfig | None = None) -> LatentModel:
        """Loads the networks of a trained run at their selected epochs.

        Raises:
          InputError: a file is missing, unreadable or of another version.
        """
        facts, config = ModelFacts.read(folder), config or folder.read_config()
        stages = self.stages(config, facts.shape)
        variables = tuple(selected_variables(stage, folder.checkpoints, config.seed) for stage in stages)
        encode, decode = self.networks(config, facts.shape, variables)
        return LatentModel(config, facts, encode, decode, read_calibration(folder, config, facts))


def train_latents(session: Session, cohort: Cohort, scaling: Scaling) -> tuple[Embeddings, np.ndarray]:
    """Trains `config.method` and returns the embeddings of every row and the indices of the rows used for training.

    Raises:
      InputError: the method makes no latents.
    """
    method = method_named(session.config.method)
    if not isinstance(method, LatentMethod):
        raise InputError(f'config.method = "{session.config.method}": makes no latents, expected a method that does')
    return method.train(session, cohort, scaling)
