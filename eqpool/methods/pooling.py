"""`config.method = "ours"`: the two stages of Lokhande et al. 2022."""

from typing import Any, ClassVar

import numpy as np

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.shape import DataShape
from eqpool.engine.session import Columns, Session, TrainingData
from eqpool.engine.state import Stage, Variables
from eqpool.evaluate.outputs import Embeddings
from eqpool.methods.base import PlannedStage
from eqpool.methods.change import with_change_scale_of, with_chosen_change_scale
from eqpool.methods.handed_back import EQPOOL, score_table, score_volumes
from eqpool.methods.harmonised_volumes import harmonise_cohort
from eqpool.methods.latent import Harmonised, LatentMethod
from eqpool.methods.latent_model import Decode, Encode, LatentModel
from eqpool.methods.linear_decoder import complete_decoder, with_linear_part_of
from eqpool.methods.networks import PoolingNetworks, pooling_stages, train_networks
from eqpool.methods.scored_voxels import ScoredVoxels
from eqpool.storage.run_folder import RunFolder


class Pooling(LatentMethod):
    """The two-stage method: stage one learns l and tau, stage two learns Phi on frozen latents."""

    decodes: ClassVar[bool] = True

    def stages(self, config: RunConfig, shape: DataShape) -> tuple[Stage, ...]:
        """Returns stage one and stage two."""
        return pooling_stages(config, shape)

    def plan(self, config: RunConfig, cohort: Cohort) -> list[PlannedStage]:
        """Returns the stages that `fit` would train. Stage two reads latents instead of inputs."""
        columns = self.columns(cohort, self.scaling(config, cohort))
        rows, dimension = len(self.training_rows(config, cohort)), config.model.latent_dim
        latents: Columns = {
            "latent": np.empty((0, dimension), np.float32),
            "tau": np.empty((0, dimension, dimension), np.float32),
        }
        first, second = self.stages(config, DataShape.of(cohort))
        return [
            PlannedStage.of(first, columns | {"inputs": cohort.inputs}, rows),
            PlannedStage.of(second, columns | latents, rows),
        ]

    def train_stages(self, session: Session, shape: DataShape, data: TrainingData) -> Embeddings:
        """Trains both stages, one after the other."""
        return train_networks(session, shape, data)[1]

    def networks(
        self, config: RunConfig, shape: DataShape, variables: tuple[Variables, ...]
    ) -> tuple[Encode, Decode | None]:
        """Returns the encoder and decoder of both trained stages."""
        networks = PoolingNetworks(config, shape, *variables)
        return networks.apply, networks.decode

    def load(self, folder: RunFolder, config: RunConfig | None = None) -> LatentModel:
        """Loads the networks of a trained run.

        The linear part of a decoder of volumes and the scale of the change are loaded once they are in the folder.
        """
        return with_change_scale_of(folder, with_linear_part_of(folder, super().load(folder, config)))

    def harmonise(self, cohort: Cohort, scaling: Scaling, config: RunConfig, folder: RunFolder) -> Harmonised:
        """Chooses the scale of the networks' change, and writes, measures and scores what is handed back.

        Volumes go to derivatives/eqpool. The features of a table are harmonised to be scored alone; `eqpool.transform`
        writes them.
        """
        model = self.load(folder)
        if cohort.volumes is None:
            model = with_chosen_change_scale(folder, model, cohort, scaling)
            return Harmonised({"change_scale": model.change_scale}, _score_of_table(model, cohort, config))
        model = with_chosen_change_scale(folder, complete_decoder(folder, model, cohort), cohort, scaling)
        voxels = ScoredVoxels(cohort, config.seed, EQPOOL) if config.evaluate.scorecard else None
        metrics = harmonise_cohort(model, cohort, folder, config.output.harmonised, folder.append_to_log, voxels)
        metrics |= {"change_scale": model.change_scale}
        return Harmonised(metrics, None if voxels is None else score_volumes(cohort, config, voxels))


def _score_of_table(model: LatentModel, cohort: Cohort, config: RunConfig) -> dict[str, Any] | None:
    if cohort.table is None or not config.evaluate.scorecard:
        return None
    form = "decoded" if config.output.harmonised == "decoded" else "change"
    _, change = model.harmonise_features(cohort.table.encoded, cohort.site_labels, form)
    return score_table(cohort, config, change, EQPOOL)
