"""The five baselines of Lokhande et al. 2022, section 4.

Each baseline has one stage, one network and the site term that `config.method` names.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.shape import DataShape
from eqpool.engine.state import Batch, LossValue, Stage, Variables, init_variables
from eqpool.errors import InputError
from eqpool.losses.matching import grouped_mmd, matched_distance
from eqpool.losses.mmd import mmd
from eqpool.losses.task import task_loss
from eqpool.models.baseline import Baseline, BaselineOutput
from eqpool.objectives.prediction import prediction_loss
from eqpool.objectives.site_terms import kernel_options
from eqpool.objectives.stage_one import squared_error_per_row
from eqpool.ops.devices import AxisName
from eqpool.ops.rows import masked_mean

DECILES = 10
Term = Callable[[BaselineOutput, Batch, AxisName], jax.Array]


def covariate_deciles(cohort: Cohort) -> np.ndarray:
    """Computes the decile of the first covariate, (N,) int32 in [0, 10), cut at the quantiles of the training rows."""
    values = cohort.covariates[:, 0]
    edges = np.quantile(values[cohort.rows("train")], np.linspace(0, 1, DECILES + 1)[1:-1])
    return np.searchsorted(edges, values, side="right").astype(np.int32)


def match_groups(cohort: Cohort) -> np.ndarray:
    """Computes the groups within which RM matches rows, (N,) int32.

    A group holds the rows of one decile and one class. A numeric target has no classes, so its groups are the deciles.
    """
    deciles = covariate_deciles(cohort)
    return deciles + DECILES * cohort.target if cohort.target_classes else deciles


def rows_with_partner(cohort: Cohort, method: str) -> np.ndarray:
    """Returns the training rows that a method can use, in order.

    SS and RM drop the rows of groups in which all rows come from one site.

    Raises:
      InputError: no row is left.
    """
    train = cohort.rows("train")
    if method not in ("ss", "rm"):
        return train
    group = covariate_deciles(cohort) if method == "ss" else match_groups(cohort)
    # Rows of an unknown site cannot be partners, and in RM rows of an unknown class have none.
    known = cohort.site[train] >= 0
    if method == "rm" and cohort.target_classes:
        known &= cohort.target[train] >= 0
    usable, groups, sites = train[known], group[train[known]], cohort.site[train[known]]
    keep = [row for row, own in zip(usable, groups, strict=True) if len(np.unique(sites[groups == own])) > 1]
    if not keep:
        alike = f"decile of {cohort.covariate_names[0]}"
        alike += f" and {cohort.target_name}" if method == "rm" and cohort.target_classes else ""
        raise InputError(
            f'config.method = "{method}": none of {len(train)} training rows of {cohort.name} has a partner, a row of '
            f"another site in the same {alike}; expected some"
        )
    return np.array(keep, np.int64)


def make_baseline(config: RunConfig, shape: DataShape) -> Stage:
    """Assembles the stage of the baseline that `config.method` names.

    Batches hold `inputs` (N, *shape.inputs), `site`, `decile`, `match`, `target`, `target_known` and `mask` (N,). The
    loss is prediction + reconstruction (mean squared error over entries) + site term. The validation score is the same
    sum. CAI's score leaves out the site term, which is a minimax game and has no meaningful value.
    """
    return Stage.of("baseline", _BaselineStage(config, shape), config.baseline, 3)


class _BaselineStage:
    """The functions of a baseline's stage, see `eqpool.engine.state.StageFunctions`."""

    def __init__(self, config: RunConfig, shape: DataShape):
        self._config, self._shape, self._weights = config, shape, config.baseline
        self._model = Baseline(config.model, shape.inputs, shape.outputs, shape.sites)
        self._site_term, self._is_game = _site_term(config, shape.sites)

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, epoch: jax.Array, axis_name: AxisName = None
    ) -> LossValue:
        del key, epoch
        output, updated = self._model.apply(
            variables,
            batch["inputs"],
            train=True,
            mask=batch["mask"],
            axis_name=axis_name,
            mutable=["batch_stats"],
        )
        terms = self._terms_of(output, batch, axis_name)
        return LossValue(self._combine(**terms), terms, dict(updated))

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        output: Any = self._model.apply(variables, batch["inputs"], train=False)
        error = squared_error_per_row(output.reconstruction, batch["inputs"])
        outputs = {"latent": output.latent, "prediction": output.prediction, "site": output.site}
        return outputs | {"reconstruction_error": error}

    def validate(self, outputs: dict[str, jax.Array], rows: Batch) -> dict[str, jax.Array]:
        everyone = jnp.ones(outputs["latent"].shape[0], jnp.float32)
        output = BaselineOutput(outputs["latent"], outputs["prediction"], jnp.zeros(()), outputs["site"])
        terms = {
            "prediction": prediction_loss(self._config, outputs["prediction"], rows, self._shape.classes),
            "reconstruction": jnp.mean(outputs["reconstruction_error"]),
            "site": self._site_term(output, rows | {"mask": everyone}, None),
        }
        scored = terms | {"site": jnp.zeros(())} if self._is_game else terms
        return terms | {"score": self._combine(**scored)}

    def initialise(self, key: jax.Array) -> Variables:
        return init_variables(self._model, key, jnp.zeros((2, *self._shape.inputs), jnp.float32), train=False)

    def _terms_of(self, output: BaselineOutput, batch: Batch, axis_name: AxisName) -> dict[str, jax.Array]:
        mask, classes = batch["mask"], self._shape.classes
        error = squared_error_per_row(output.reconstruction, batch["inputs"])
        return {
            "prediction": prediction_loss(self._config, output.prediction, batch, classes, mask, axis_name),
            "reconstruction": masked_mean(error, mask, axis_name=axis_name),
            "site": self._site_term(output, batch, axis_name),
        }

    def _combine(self, prediction: jax.Array, reconstruction: jax.Array, site: jax.Array) -> jax.Array:
        return (
            self._weights.prediction_weight * prediction
            + self._weights.reconstruction_weight * reconstruction
            + self._weights.site_weight * site
        )


def _site_term(config: RunConfig, num_sites: int) -> tuple[Term, bool]:
    """Returns the site term that `config.method` names, and whether it is a game, which cannot serve as a score."""
    settings = config.baseline
    kernel = kernel_options(settings, num_sites)
    terms: dict[str, Term] = {
        "naive": lambda output, rows, axis: jnp.zeros(()),
        "mmd": lambda output, rows, axis: mmd(output.latent, rows["site"], mask=rows["mask"], axis_name=axis, **kernel),
        # The gradient is reversed between encoder and adversary, which makes this one loss the minimax game.
        "cai": lambda output, rows, axis: task_loss(
            output.site,
            rows["site"],
            num_classes=num_sites,
            mask=rows["mask"] * (rows["site"] >= 0),
            axis_name=axis,
        ),
        "ss": lambda output, rows, axis: grouped_mmd(
            output.latent,
            rows["site"],
            rows["decile"],
            num_groups=DECILES,
            mask=rows["mask"],
            axis_name=axis,
            **kernel,
        ),
        "rm": lambda output, rows, axis: matched_distance(
            output.latent, rows["site"], rows["match"], num_sites=num_sites, mask=rows["mask"], axis_name=axis
        ),
    }
    games = {"cai"}
    return terms[config.method], config.method in games
