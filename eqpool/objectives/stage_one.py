"""Stage one: E, tau and D, equivariant to the covariates (Lokhande et al. 2022, section 3.1 and Algorithm 1)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import ModelConfig, RunConfig, rotation_ranges
from eqpool.data.shape import DataShape
from eqpool.engine.state import Batch, LossValue, Stage, Variables, init_variables
from eqpool.geometry import so
from eqpool.losses.equivariance import equivariance_error, equivariance_loss, unbiased_equivariance_loss
from eqpool.models.autoencoder import StageOne
from eqpool.objectives.prediction import prediction_loss
from eqpool.objectives.site_terms import labels_of, mean_over_chunks, sum_over_labels, tau_mmd
from eqpool.ops.devices import AxisName
from eqpool.ops.rows import masked_mean


def covariate_generators(config: ModelConfig, num_covariates: int) -> np.ndarray:
    """Returns commuting generators, (C, n, n) float64: the latent's rotation per unit of each covariate."""
    ranges = rotation_ranges(config, num_covariates)
    return so.generator(config.latent_dim, rotation_range=ranges, spectrum=config.spectrum)


def make_stage_one(config: RunConfig, shape: DataShape) -> Stage:
    """Assembles stage one of a run.

    Batches hold `inputs` (N, *shape.inputs), `covariate` (N, C) in [0, 1], `site`, `target` and `target_known` (N,),
    `mask` (N,), 0 for padding, and `nuisance` (N, Q) for Q nuisances, further labels that should not be predictable
    from tau.

    `equivariance_form` selects the equivariance loss of eq. (3) or its unbiased form.

    The loss is equivariance + reconstruction + prediction + the MMD of tau across sites if it has a weight.
    Reconstruction is the mean squared error over an input's entries, so that its weight does not depend on the input's
    size. The validation score is the same sum on the validation rows.
    """
    return Stage.of("stage_one", _StageOne(config, shape), config.stage_one, 1)


class _StageOne:
    """The functions of stage one, see `eqpool.engine.state.StageFunctions`."""

    def __init__(self, config: RunConfig, shape: DataShape):
        self._config, self._shape, self._weights = config, shape, config.stage_one
        self._model = _networks(config, shape)
        self._generators = covariate_generators(config.model, shape.covariates)

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, epoch: jax.Array, axis_name: AxisName = None
    ) -> LossValue:
        del epoch
        mask = batch["mask"]
        output, updated = self._model.apply(
            variables,
            batch["inputs"],
            train=True,
            mask=mask,
            axis_name=axis_name,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        error = squared_error_per_row(output.reconstruction, batch["inputs"])
        terms = {
            "equivariance": self._equivariance_term(output.tau, batch["covariate"], mask, axis_name),
            "reconstruction": masked_mean(error, mask, axis_name=axis_name),
            "prediction": prediction_loss(self._config, output.prediction, batch, self._shape.classes, mask, axis_name),
            "site": self._site_term(batch | {"tau": output.tau}, axis_name)
            if self._weights.mmd_weight
            else jnp.zeros(()),
        }
        return LossValue(self._combine(**terms), terms, dict(updated))

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        output: Any = self._model.apply(variables, batch["inputs"], train=False)
        return {
            "latent": output.latent,
            "tau": output.tau,
            "prediction": output.prediction,
            "reconstruction_error": squared_error_per_row(output.reconstruction, batch["inputs"]),
        }

    def validate(self, outputs: dict[str, jax.Array], rows: Batch) -> dict[str, jax.Array]:
        terms = {
            "equivariance": self._equivariance_term(outputs["tau"], rows["covariate"], None),
            "reconstruction": jnp.mean(outputs["reconstruction_error"]),
            "prediction": prediction_loss(self._config, outputs["prediction"], rows, self._shape.classes),
            "site": mean_over_chunks(self._site_term, {"tau": outputs["tau"]} | labels_of(rows))
            if self._weights.mmd_weight
            else jnp.zeros(()),
        }
        error = equivariance_error(
            outputs["tau"], rows["covariate"], generator=self._generators, group_map=self._config.model.group_map
        )
        return terms | {"score": self._combine(**terms), "equivariance_error": error}

    def initialise(self, key: jax.Array) -> Variables:
        example = jnp.zeros((2, *self._shape.inputs), jnp.float32)
        return init_variables(self._model, {"params": key, "dropout": key}, example, train=False)

    def _combine(
        self, equivariance: jax.Array, reconstruction: jax.Array, prediction: jax.Array, site: jax.Array
    ) -> jax.Array:
        return (
            self._weights.equivariance_weight * equivariance
            + self._weights.reconstruction_weight * reconstruction
            + self._weights.prediction_weight * prediction
            + self._weights.mmd_weight * site
        )

    def _site_term(self, rows: Batch, axis_name: AxisName = None) -> jax.Array:
        # One column determines a tau that depends on the covariates alone, and costs 1/n of the whole.
        columns = 1 if self._config.model.tau == "covariate" else self._config.model.latent_dim
        return sum_over_labels(
            lambda rows, count: tau_mmd(self._weights, rows["tau"][:, :, :columns], rows, count, axis_name),
            rows,
            self._shape.sites,
            self._shape.nuisances,
        )

    def _equivariance_term(
        self, tau: jax.Array, covariate: jax.Array, mask: jax.Array | None, axis_name: AxisName = None
    ) -> jax.Array:
        losses = {"printed": equivariance_loss, "unbiased": unbiased_equivariance_loss}
        return losses[self._weights.equivariance_form](
            tau,
            covariate,
            generator=self._generators,
            group_map=self._config.model.group_map,
            mask=mask,
            axis_name=axis_name,
        )


def make_decoder(config: RunConfig, shape: DataShape) -> Callable[[Variables, jax.Array], jax.Array]:
    """Returns D in inference mode: (stage one's variables, latents (N, n)) -> (N, *shape.inputs) float32."""
    model = _networks(config, shape)

    def decode(variables: Variables, latent: jax.Array) -> jax.Array:
        return model.apply(variables, latent, method=model.decode)  # type: ignore[return-value]

    return decode


def _networks(config: RunConfig, shape: DataShape) -> StageOne:
    return StageOne(config.model, shape.inputs, shape.outputs, shape.covariates)


def squared_error_per_row(reconstruction: jax.Array, inputs: jax.Array) -> jax.Array:
    """Computes the mean squared error over each input's entries: two (N, ...) arrays to (N,)."""
    return jnp.mean(jnp.square(reconstruction - inputs), axis=tuple(range(1, inputs.ndim)))
