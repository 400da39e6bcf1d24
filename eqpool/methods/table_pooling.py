"""Both stages on arrays in memory, as one model: trained, kept as plain arrays, and applied to new rows in chunks."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import RunConfig
from eqpool.engine.session import Columns, Session, forward_on_table, train_on_table
from eqpool.engine.state import Stage, Variables
from eqpool.methods.pooling_chain import make_encode, pooled_latent, standard_promotion
from eqpool.models.mlp import MLP
from eqpool.objectives.stage_one import make_decoder, make_stage_one
from eqpool.objectives.stage_two import make_stage_two

CHUNK = 4096  # rows whose rotations (n x n each) are in memory at once


@dataclasses.dataclass(frozen=True)
class TableShape:
    """What the networks' sizes follow from, beside the config.

    Attributes:
      features, covariates, sites: how many.
      classes: of the target; 0 for a number.
      nuisances: levels of each further label.
    """

    features: int
    covariates: int
    sites: int
    classes: int
    nuisances: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class TablePooling:
    """Both trained stages.

    Attributes:
      config: `model` is what the networks need of it.
      shape: of the table.
      stage_one, stage_two: their variables, nested dicts of arrays.
      history: one record an epoch of either stage; not kept by `EquivariantPooling.save`.
    """

    config: RunConfig
    shape: TableShape
    stage_one: Variables
    stage_two: Variables
    history: tuple[dict[str, Any], ...] = ()

    def apply(self, inputs: np.ndarray, decode: bool = False) -> dict[str, np.ndarray]:
        """What both stages make of (N, F) float32 rows, on the host, in memory that does not grow with n^2 N.

        Returns:
          `latent`, `covariate_free`, `phi` and `pooled_latent` (N, n), `prediction` (N, outputs); with `decode` also
          `decoded` (N, F), D(l), and `pooled` (N, F), D of the pooled latent: the features as the decoder gives them
          before and after pooling.
        """
        with standard_promotion():
            compute = _applied(self.config, self.shape, decode)
            return _in_chunks(lambda rows: compute(self.stage_one, self.stage_two, rows), inputs)

    def decode(self, phi: np.ndarray) -> np.ndarray:
        """Decodes Phi alone, (N, n) to (N, F) float32."""
        psi = self.stage_two["params"]["psi"]
        with standard_promotion():
            compute = _decoded(self.config, self.shape)
            return _in_chunks(lambda rows: {"features": compute(self.stage_one, psi, rows)}, phi)["features"]


def _in_chunks(compute: Callable[[np.ndarray], dict[str, jax.Array]], inputs: np.ndarray) -> dict[str, np.ndarray]:
    """`compute` on chunks of rows, its outputs joined on the host."""
    size = min(CHUNK, 1 << max(3, math.ceil(math.log2(max(len(inputs), 1)))))  # few sizes, few compilations
    parts = []
    for start in range(0, len(inputs), size):
        rows = np.asarray(inputs[start : start + size], np.float32)
        outputs = jax.device_get(compute(np.pad(rows, ((0, size - len(rows)), (0, 0)))))
        parts.append({name: value[: len(rows)] for name, value in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def fit_table(
    config: RunConfig, shape: TableShape, columns: Columns, train: np.ndarray, validation: np.ndarray
) -> TablePooling:
    """Trains stage one, then stage two on its latents; validation rows choose the epoch of each.

    Args:
      config: of the run; its seed decides all that is random.
      shape: of the table.
      columns: `inputs` (N, F), and as `Scaling.columns` gives them `site`, `covariate`, `target`, `target_known`, and
        `nuisance` where `shape` has any.
      train, validation: row indices.

    Raises:
      TrainingDiverged: a loss is not finite.
    """
    with standard_promotion():
        return _fit(config, shape, columns, train, validation)


def _fit(
    config: RunConfig, shape: TableShape, columns: Columns, train: np.ndarray, validation: np.ndarray
) -> TablePooling:
    stage_one, stage_two = _stages(config, shape)
    session = Session.start(config)
    first = train_on_table(session, stage_one, columns, train, validation).best_variables
    outputs = forward_on_table(session, stage_one, first, columns)
    latents = {name: value for name, value in columns.items() if name != "inputs"}
    latents |= {name: outputs[name] for name in ("latent", "tau")}
    second = train_on_table(session, stage_two, latents, train, validation).best_variables
    first, second = jax.tree.map(np.asarray, (first, second))
    return TablePooling(config, shape, first, second, tuple(session.log.records()))


@functools.lru_cache(maxsize=32)
def _stages(config: RunConfig, shape: TableShape) -> tuple[Stage, Stage]:
    """The same objects for the same settings, so that what was compiled for them serves again."""
    stage_one = make_stage_one(config, (shape.features,), shape.covariates, shape.sites, shape.classes, shape.nuisances)
    return stage_one, make_stage_two(config, shape.sites, shape.classes, shape.nuisances)


@functools.lru_cache(maxsize=32)
def _applied(config: RunConfig, shape: TableShape, decode: bool) -> Callable[..., dict[str, jax.Array]]:
    encode, decoder = make_encode(*_stages(config, shape)), _decoder(config, shape)

    def compute(first: Variables, second: Variables, inputs: jax.Array) -> dict[str, jax.Array]:
        outputs = encode(first, second, inputs)
        if decode:
            features = decoder(first, jnp.concatenate([outputs["latent"], outputs["pooled_latent"]]))
            outputs["decoded"], outputs["pooled"] = jnp.split(features, 2)
        return outputs

    return jax.jit(compute)


@functools.lru_cache(maxsize=32)
def _decoded(config: RunConfig, shape: TableShape) -> Callable[..., jax.Array]:
    decoder, psi = _decoder(config, shape), MLP((config.model.hidden_units,), config.model.latent_dim)

    def compute(first: Variables, psi_variables: Variables, phi: jax.Array) -> jax.Array:
        psi_of_phi: Any = psi.apply({"params": psi_variables}, phi)
        return decoder(first, pooled_latent(psi_of_phi))

    return jax.jit(compute)


def _decoder(config: RunConfig, shape: TableShape) -> Callable[[Variables, jax.Array], jax.Array]:
    return make_decoder(config, (shape.features,), shape.covariates, shape.classes)
