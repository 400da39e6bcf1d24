"""Stage two: b, h and Psi on frozen latents, invariant to the site (Lokhande et al. 2022, section 3.2)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import RunConfig, StageTwoConfig, rotation_ranges
from eqpool.data.shape import DataShape
from eqpool.data.site_effects.erasure import no_erasure
from eqpool.engine.state import Batch, LossValue, Stage, Variables, init_variables
from eqpool.losses.mmd import conditional_mmd, mmd
from eqpool.losses.task import task_loss
from eqpool.models.invariant import StageTwo
from eqpool.models.mlp import MLP
from eqpool.objectives.prediction import prediction_loss
from eqpool.objectives.site_terms import kernel_options, labels_of, mean_over_chunks, sum_over_labels
from eqpool.ops.devices import AxisName
from eqpool.ops.rows import masked_mean


def mmd_ramp(config: StageTwoConfig, epoch: jax.Array | int) -> jax.Array:
    """Computes the factor on `mmd_weight`: start x growth^epoch, up to the ceiling (docs/method.md, section 4)."""
    return jnp.minimum(
        config.mmd_ramp_start * config.mmd_ramp_growth ** jnp.asarray(epoch, jnp.float32), config.mmd_ramp_ceiling
    )


def make_stage_two(config: RunConfig, shape: DataShape) -> Stage:
    """Assembles stage two of a run, which does not depend on `shape.inputs`.

    Batches hold `latent` (N, n), `tau` (N, n, n), `site` (N,), `covariate` (N, C), `target` and `target_known` (N,),
    `mask` (N,), 0 for padding, and `nuisance` (N, Q) for Q nuisances, further labels that should not be predictable
    from Phi.

    The validation score always uses the weights of the last epoch, so that epochs under a ramp are comparable.
    """
    return Stage.of("stage_two", _StageTwo(config, shape), config.stage_two, 2)


class _StageTwo:
    """The functions of stage two, see `eqpool.engine.state.StageFunctions`."""

    def __init__(self, config: RunConfig, shape: DataShape):
        self._config, self._shape, self._weights = config, shape, config.stage_two
        self._stretches = config.stage_two.stretch_tau != "none"
        self._model = StageTwo(
            outputs=shape.outputs,
            num_sites=shape.sites if self._weights.adversary_weight else 0,
            hidden_units=config.model.hidden_units,
            on_sphere=config.model.phi == "sphere",
            code_dim=config.model.code_dim,
            code_levels=config.model.code_levels,
            rotation_ranges=rotation_ranges(config.model, shape.covariates) if self._stretches else (),
        )
        self._last_ramp = mmd_ramp(self._weights, max(self._weights.epochs - 1, 0))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, epoch: jax.Array, axis_name: AxisName = None
    ) -> LossValue:
        del key
        mask = batch["mask"]
        output, updated = self._model.apply(
            variables,
            batch["latent"],
            batch["tau"],
            train=True,
            mask=mask,
            axis_name=axis_name,
            known_to_adversary=self._known_to_adversary(batch),
            mutable=["batch_stats"],
        )
        error = jnp.sum(jnp.square(output.reconstruction - batch["latent"]), axis=-1)
        known_site = mask * (batch["site"] >= 0)
        terms = {
            "prediction": prediction_loss(self._config, output.prediction, batch, self._shape.classes, mask, axis_name),
            "reconstruction": masked_mean(error, mask, axis_name=axis_name),
            "site": self._invariance(batch | {"phi": output.phi, "covariate_free": output.covariate_free}, axis_name),
            "adversary": jnp.zeros(())
            if output.site is None
            else task_loss(
                output.site, batch["site"], num_classes=self._shape.sites, mask=known_site, axis_name=axis_name
            ),
        }
        return LossValue(self._combine(**terms, ramp=mmd_ramp(self._weights, epoch)), terms, dict(updated))

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        output: Any = self._model.apply(variables, batch["latent"], batch["tau"])
        error = jnp.sum(jnp.square(output.reconstruction - batch["latent"]), axis=-1)
        outputs = {
            "phi": output.phi,
            "covariate_free": output.covariate_free,
            "prediction": output.prediction,
            "reconstruction": output.reconstruction,
            "reconstruction_error": error,
        }
        return outputs | {"tau": output.tau} if self._stretches else outputs

    def validate(self, outputs: dict[str, jax.Array], rows: Batch) -> dict[str, jax.Array]:
        matched = {name: outputs[name] for name in ("phi", "covariate_free")}
        matched |= labels_of(rows) | {name: rows[name] for name in ("covariate", "target", "target_known")}
        terms = {
            "prediction": prediction_loss(self._config, outputs["prediction"], rows, self._shape.classes),
            "reconstruction": jnp.mean(outputs["reconstruction_error"]),
            "site": mean_over_chunks(self._invariance, matched),
            # An adversary has no useful score, because a better encoder raises its loss.
            "adversary": jnp.zeros(()),
        }
        return terms | {"score": self._combine(**terms, ramp=self._last_ramp)}

    def initialise(self, key: jax.Array) -> Variables:
        dimension = self._config.model.latent_dim
        labels = {
            "covariate": jnp.zeros((2, self._shape.covariates)),
            "target": jnp.zeros(2, jnp.int32),
            "target_known": jnp.zeros(2),
        }
        variables = init_variables(
            self._model,
            key,
            jnp.zeros((2, dimension)),
            jnp.zeros((2, dimension, dimension)),
            known_to_adversary=self._known_to_adversary(labels),
        )
        constants: dict[str, Any] = {}
        if self._weights.erase_site != "none":
            constants |= erasure_constants(*no_erasure(dimension))
        if self._stretches:
            constants |= stretch_constants(np.eye(dimension), np.ones(self._shape.covariates))
        return variables | {"constants": constants} if constants else variables

    def _combine(
        self, prediction: jax.Array, reconstruction: jax.Array, site: jax.Array, adversary: jax.Array, ramp: jax.Array
    ) -> jax.Array:
        return (
            self._weights.prediction_weight * prediction
            + self._weights.reconstruction_weight * reconstruction
            + self._weights.mmd_weight * ramp * site
            + self._weights.adversary_weight * adversary
        )

    def _known_to_adversary(self, rows: Batch) -> jax.Array | None:
        """Returns covariates and class (N, C + K) if sites are compared within classes, 0 for an unknown class."""
        if not self._weights.within_classes or not self._shape.classes or not self._weights.adversary_weight:
            return None
        classes = jax.nn.one_hot(rows["target"], self._shape.classes) * rows["target_known"][:, None]
        return jnp.concatenate([rows["covariate"], classes], axis=1)

    def _invariance(self, rows: Batch, axis_name: AxisName = None) -> jax.Array:
        return sum_over_labels(
            lambda rows, count: site_term(
                self._weights, rows["phi"], rows["covariate_free"], rows, count, self._shape.classes, axis_name
            ),
            rows,
            self._shape.sites,
            self._shape.nuisances,
        )


def erasure_constants(mean: np.ndarray, projection: np.ndarray) -> Variables:
    """Returns the constants by which `StageTwo` erases the site from tau^-1 l."""
    return {"erasure": {"mean": jnp.float32(mean), "projection": jnp.float32(projection)}}


def stretch_constants(frame: np.ndarray, factor: np.ndarray) -> Variables:
    """Returns the constants by which `StageTwo` stretches tau, see `eqpool.geometry.stretch`."""
    return {"stretch": {"frame": jnp.float32(frame), "factor": jnp.float32(factor)}}


def make_psi(config: RunConfig) -> Callable[[Variables, jax.Array], jax.Array]:
    """Returns Psi in inference mode: (stage two's variables, Phi (N, n)) -> (N, n), not yet normalised."""
    psi = MLP((config.model.hidden_units,), config.model.latent_dim)
    return lambda variables, phi: psi.apply({"params": variables["params"]["psi"]}, phi)  # type: ignore[return-value]


def site_term(
    config: StageTwoConfig,
    phi: jax.Array,
    covariate_free: jax.Array,
    rows: Batch,
    num_sites: int,
    num_classes: int,
    axis_name: AxisName = None,
) -> jax.Array:
    """Computes the kernel MMD across sites that `mmd_match` names (docs/method.md, section 4).

    `phi` matches Phi itself, as in Algorithm 1. `covariate_free` matches tau^-1 Phi, which does not depend on the
    covariate. `conditional` compares Phi between sites only at equal covariates (eq. (1)). With `within_classes` rows
    are compared only with those of their class, and rows of an unknown class with each other.
    """
    options = kernel_options(config, num_sites) | {"mask": rows["mask"], "axis_name": axis_name}
    if config.within_classes and num_classes:
        known = rows["target_known"] > 0
        options |= {"stratum": jnp.where(known, rows["target"], num_classes), "num_strata": num_classes + 1}
    if config.mmd_match == "conditional":
        return conditional_mmd(phi, rows["site"], rows["covariate"], **options)
    return mmd(phi if config.mmd_match == "phi" else covariate_free, rows["site"], **options)
