"""Both trained stages as one model that encodes, pools and decodes. Every use of a trained model goes through it."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from eqpool.config import RunConfig
from eqpool.data.shape import DataShape
from eqpool.data.site_effects.erasure import erase_site
from eqpool.data.site_effects.kept import kept_columns
from eqpool.engine.compilation import standard_promotion
from eqpool.engine.session import Columns, Session, TrainingData, forward_on_table, train_on_table, train_stage
from eqpool.engine.state import Stage, Variables
from eqpool.errors import InputError
from eqpool.evaluate.outputs import Embeddings
from eqpool.geometry.sphere import normalize
from eqpool.geometry.stretch import stretch_rotations
from eqpool.methods.base import Outputs
from eqpool.methods.stretch import fit_stretch
from eqpool.objectives.stage_one import covariate_generators, make_decoder, make_stage_one
from eqpool.objectives.stage_two import erasure_constants, make_psi, make_stage_two, stretch_constants

CHUNK = 4096  # rows with rotations (n x n each) in memory at once


@dataclasses.dataclass(frozen=True)
class PoolingNetworks:
    """The networks of both stages.

    Attributes:
      config: config of the run. Its `model` defines the networks.
      shape: shape of the training data.
      stage_one, stage_two: variables of the stages, nested dicts of arrays.
    """

    config: RunConfig
    shape: DataShape
    stage_one: Variables
    stage_two: Variables

    def on_host(self) -> "PoolingNetworks":
        """Returns the same networks with their variables as NumPy arrays."""
        first, second = jax.tree.map(np.asarray, (self.stage_one, self.stage_two))
        return dataclasses.replace(self, stage_one=first, stage_two=second)

    def apply(self, inputs: np.ndarray) -> Outputs:
        """Encodes and pools (N, *shape.inputs) float32 rows in chunks, so that memory does not grow with n^2 N.

        Returns:
          `latent`, `covariate_free`, `phi` and `pooled_latent` (N, n), and `prediction` (N, outputs), float32.
          `pooled_latent` is Psi(Phi) on the unit sphere, on which D was trained.
        """
        with standard_promotion():
            compute = _encode(self.config, self.shape)
            return _in_chunks(lambda rows: compute(self.stage_one, self.stage_two, rows), inputs)

    def decode(self, latent: np.ndarray) -> np.ndarray:
        """Computes D(latent), (N, n) on the unit sphere to (N, *shape.inputs) float32."""
        with standard_promotion():
            compute = _decode(self.config, self.shape)
            return _in_chunks(lambda rows: {"inputs": compute(self.stage_one, rows)}, latent)["inputs"]

    def decode_phi(self, phi: np.ndarray) -> np.ndarray:
        """Computes D(Psi(Phi)), (N, n) to (N, *shape.inputs) float32, with Psi(Phi) on the unit sphere."""
        with standard_promotion():
            compute = _psi(self.config)
            latent = _in_chunks(lambda rows: {"latent": compute(self.stage_two, rows)}, phi)["latent"]
        return self.decode(latent)


def train_networks(session: Session, shape: DataShape, data: TrainingData) -> tuple[PoolingNetworks, Embeddings]:
    """Trains stage one, then stage two on its latents, and returns the networks and the embeddings of all rows.

    `data.columns` come from `Scaling.columns`: `site`, `covariate`, `target`, `target_known`, and `nuisance` if `shape`
    has nuisances.

    Raises:
      TrainingDiverged: a loss is not finite.
    """
    stage_one, stage_two = pooling_stages(session.config, shape)
    first, encoded = train_stage(session, stage_one, data)
    latents = data.columns | {"latent": encoded["latent"], "tau": encoded["tau"]}
    constants = _constants(session.config, shape, latents, data)
    second = train_on_table(session, stage_two, latents, data.train, data.validation, constants).best_variables
    pooled = forward_on_table(session, stage_two, second, latents)
    embeddings = Embeddings(
        latent=encoded["latent"],
        tau=pooled.get("tau", encoded["tau"]),
        phi=pooled["phi"],
        covariate_free=pooled["covariate_free"],
        prediction=pooled["prediction"],
    )
    return PoolingNetworks(session.config, shape, first, second), embeddings


def _constants(config: RunConfig, shape: DataShape, columns: Columns, data: TrainingData) -> Variables:
    """Fits what stage two does to tau and to tau^-1 l before b, in this order, and returns its constants.

    Raises:
      InputError: see `_erasure`.
    """
    constants: dict[str, Any] = {}
    if config.stage_two.stretch_tau != "none":
        generators = covariate_generators(config.model, shape.covariates)
        stretch = fit_stretch(columns["tau"], columns["covariate"], data.train, data.validation, generators)
        constants |= stretch_constants(*stretch)
        tau = stretch_rotations(columns["tau"], *stretch, generator=generators)
        columns = columns | {"tau": np.asarray(tau)}
    constants |= _erasure(config, shape, columns, data.train)
    return {"constants": constants} if constants else {}


def _erasure(config: RunConfig, shape: DataShape, columns: Columns, train: np.ndarray) -> Variables:
    """Fits the erasure of the site from tau^-1 l on the training rows and returns it as constants of stage two.

    Raises:
      InputError: erasing a direction for each site but one would leave nothing.
    """
    if config.stage_two.erase_site == "none":
        return {}
    if shape.sites > config.model.latent_dim:
        raise InputError(
            f'config.stage_two.erase_site = "{config.stage_two.erase_site}": {shape.sites} sites leave nothing of a '
            f"latent of {config.model.latent_dim} dimensions; expected a config.model.latent_dim of at least "
            f'{shape.sites + 1}, or "none"'
        )
    latent, tau, site, covariate, target, known = (
        columns[name][train] for name in ("latent", "tau", "site", "covariate", "target", "target_known")
    )
    turned_back = np.einsum("nij,ni->nj", tau, latent, dtype=np.float64)
    kept = kept_columns(covariate, target, known, shape.classes)
    return erasure_constants(*erase_site(turned_back, site, kept))


@functools.lru_cache(maxsize=32)
def pooling_stages(config: RunConfig, shape: DataShape) -> tuple[Stage, Stage]:
    """Returns both stages, the same objects for the same settings, so that their compiled functions are reused."""
    return make_stage_one(config, shape), make_stage_two(config, shape)


def _in_chunks(compute: Callable[[np.ndarray], dict[str, jax.Array]], inputs: np.ndarray) -> Outputs:
    """Applies `compute` to chunks of rows and joins its outputs on the host."""
    size = min(CHUNK, 1 << max(3, math.ceil(math.log2(max(len(inputs), 1)))))  # few sizes, few compilations
    parts = []
    for start in range(0, max(len(inputs), 1), size):
        rows = np.asarray(inputs[start : start + size], np.float32)
        padding = ((0, size - len(rows)),) + ((0, 0),) * (rows.ndim - 1)
        outputs = jax.device_get(compute(np.pad(rows, padding)))
        parts.append({name: value[: len(rows)] for name, value in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@functools.lru_cache(maxsize=32)
def _encode(config: RunConfig, shape: DataShape) -> Callable[..., dict[str, jax.Array]]:
    stage_one, stage_two = pooling_stages(config, shape)

    def encode(first: Variables, second: Variables, inputs: jax.Array) -> dict[str, jax.Array]:
        encoded = stage_one.forward(first, {"inputs": inputs})
        pooled = stage_two.forward(second, {name: encoded[name] for name in ("latent", "tau")})
        return {
            "latent": encoded["latent"],
            "covariate_free": pooled["covariate_free"],
            "phi": pooled["phi"],
            "prediction": pooled["prediction"],
            "pooled_latent": normalize(pooled["reconstruction"]),
        }

    return jax.jit(encode)


@functools.lru_cache(maxsize=32)
def _decode(config: RunConfig, shape: DataShape) -> Callable[..., jax.Array]:
    return jax.jit(make_decoder(config, shape))


@functools.lru_cache(maxsize=32)
def _psi(config: RunConfig) -> Callable[..., jax.Array]:
    psi = make_psi(config)
    return jax.jit(lambda variables, phi: normalize(psi(variables, phi)))
