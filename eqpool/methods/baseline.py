"""`config.method` = naive, mmd, cai, ss or rm: the baselines of Lokhande et al. 2022, section 4."""

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.shape import DataShape
from eqpool.engine.session import Columns, Session, TrainingData, train_stage
from eqpool.engine.state import Stage, Variables
from eqpool.evaluate.outputs import Embeddings
from eqpool.methods.base import Outputs
from eqpool.methods.latent import LatentMethod
from eqpool.methods.latent_model import Decode, Encode
from eqpool.objectives.baselines import covariate_deciles, make_baseline, match_groups, rows_with_partner


class Baseline(LatentMethod):
    """A baseline with one stage. Its latent also serves as Phi, and there is no decoder from Phi."""

    def stages(self, config: RunConfig, shape: DataShape) -> tuple[Stage, ...]:
        """Returns the one stage, with the site term that `config.method` names."""
        return (make_baseline(config, shape),)

    def columns(self, cohort: Cohort, scaling: Scaling) -> Columns:
        """Returns the columns of every method, the groups within which SS and RM match rows, and the rows' numbers."""
        groups = {"decile": covariate_deciles(cohort), "match": match_groups(cohort)}
        return scaling.columns(cohort) | groups | {"scan": np.arange(len(cohort.site), dtype=np.int32)}

    def training_rows(self, config: RunConfig, cohort: Cohort) -> np.ndarray:
        """Returns the training rows, for SS and RM without rows that have no partner at another site."""
        return rows_with_partner(cohort, config.method)

    def train_stages(self, session: Session, shape: DataShape, data: TrainingData) -> Embeddings:
        """Trains the stage."""
        (stage,) = self.stages(session.config, shape)
        _, outputs = train_stage(session, stage, data)
        latent = outputs["latent"]
        return Embeddings(latent=latent, tau=None, phi=latent, covariate_free=None, prediction=outputs["prediction"])

    def networks(
        self, config: RunConfig, shape: DataShape, variables: tuple[Variables, ...]
    ) -> tuple[Encode, Decode | None]:
        """Returns the encoder and None, as a baseline has no decoder from Phi."""
        ((stage,), (trained,)) = self.stages(config, shape), variables

        @jax.jit
        def encode(trained: Variables, inputs: jax.Array) -> dict[str, jax.Array]:
            outputs = stage.forward(trained, {"inputs": inputs})
            return {"latent": outputs["latent"], "phi": outputs["latent"], "prediction": outputs["prediction"]}

        def apply(inputs: np.ndarray) -> Outputs:
            return jax.device_get(encode(trained, jnp.asarray(inputs)))

        return apply, None
