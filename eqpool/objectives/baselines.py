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
from eqpool.models.baseline import Baseline
from eqpool.objectives.latent_queue import LABELS, empty_queue, joined, pushed, whole_gradient
from eqpool.objectives.prediction import prediction_loss
from eqpool.objectives.site_game import SiteGame
from eqpool.objectives.site_terms import kernel_options
from eqpool.objectives.stage_one import squared_error_per_row
from eqpool.ops.devices import AxisName, gather_rows, largest_over, mean_over
from eqpool.ops.rows import masked_mean

DECILES = 10
_GAMES = ("cai",)
_COMPARING_SITES = ("mmd", "ss", "rm", *_GAMES)
QUEUE, ADVERSARY = "queue", "adversary"  # collections of variables that a step changes beside the networks
Term = Callable[[Batch], jax.Array]


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

    Batches hold `inputs` (N, *shape.inputs), `site`, `decile`, `match`, `scan`, `target`, `target_known` and `mask`
    (N,). The loss is prediction + reconstruction (mean squared error over entries) + site term. The site terms of mmd,
    ss and rm compare the rows of a batch with each other and with the last `config.baseline.queue_rows` rows before
    them (`eqpool.objectives.latent_queue`). The adversary of cai learns from the same rows
    (`eqpool.objectives.site_game`), and its loss is subtracted.

    The validation score is the same sum over all validation rows, without a queue. For cai the site term of the score
    is how much of the site the adversary explains, see `SiteGame.information`.
    """
    return Stage.of("baseline", _BaselineStage(config, shape), config.baseline, 3)


class _BaselineStage:
    """The functions of a baseline's stage, see `eqpool.engine.state.StageFunctions`."""

    def __init__(self, config: RunConfig, shape: DataShape):
        self._config, self._shape, self._weights = config, shape, config.baseline
        self._model = Baseline(config.model, shape.inputs, shape.outputs)
        self._site_term = _site_term(config, shape.sites)
        is_game, dimension = config.method in _GAMES, config.model.latent_dim
        self._game = SiteGame(config.baseline, shape.sites, dimension) if is_game else None
        self._queue_rows = config.baseline.queue_rows if config.method in _COMPARING_SITES else 0

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, epoch: jax.Array, axis_name: AxisName = None
    ) -> LossValue:
        del key, epoch
        output, updated = self._model.apply(
            _networks(variables),
            batch["inputs"],
            train=True,
            mask=batch["mask"],
            axis_name=axis_name,
            mutable=["batch_stats"],
        )
        site, kept = self._site_of_step(variables, batch | {"latent": output.latent}, axis_name)
        mask, classes = batch["mask"], self._shape.classes
        error = squared_error_per_row(output.reconstruction, batch["inputs"])
        terms = {
            "prediction": prediction_loss(self._config, output.prediction, batch, classes, mask, axis_name),
            "reconstruction": masked_mean(error, mask, axis_name=axis_name),
            "site": site,
        }
        weighed = terms | {"site": -site} if self._game else terms
        return LossValue(self._combine(**weighed), terms, dict(updated) | kept)

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        output: Any = self._model.apply(_networks(variables), batch["inputs"], train=False)
        error = squared_error_per_row(output.reconstruction, batch["inputs"])
        outputs = {"latent": output.latent, "prediction": output.prediction, "reconstruction_error": error}
        return outputs | ({"site": self._game.logits(variables[ADVERSARY], output.latent)} if self._game else {})

    def validate(self, outputs: dict[str, jax.Array], rows: Batch) -> dict[str, jax.Array]:
        rows = rows | {"latent": outputs["latent"], "mask": jnp.ones(outputs["latent"].shape[0], jnp.float32)}
        site = self._game.loss(outputs["site"], rows) if self._game else self._site_term(rows)
        terms = {
            "prediction": prediction_loss(self._config, outputs["prediction"], rows, self._shape.classes),
            "reconstruction": jnp.mean(outputs["reconstruction_error"]),
            "site": site,
        }
        scored = terms | {"site": self._game.information(site, rows)} if self._game else terms
        return terms | {"score": self._combine(**scored)}

    def initialise(self, key: jax.Array) -> Variables:
        inputs = jnp.zeros((2, *self._shape.inputs), jnp.float32)
        variables = init_variables(self._model, key, inputs, train=False)
        if self._queue_rows:
            variables |= {QUEUE: empty_queue(self._queue_rows, self._config.model.latent_dim)}
        if self._game:
            variables |= {ADVERSARY: self._game.initialise(jax.random.fold_in(key, 1))}
        return variables

    def _site_of_step(self, variables: Variables, rows: Batch, axis_name: AxisName) -> tuple[jax.Array, Variables]:
        """Returns the site term of a training step, and the variables that it changes.

        Each device compares the rows of all devices, so that the queue and the adversary stay the same on all of them.
        """
        rows = gather_rows({name: rows[name] for name in ("latent", "mask", *LABELS)}, axis_name)
        held = {name: largest_over(column, axis_name) for name, column in rows.items()}  # known to be the same on all
        compared, learnt, kept = rows, held, {}
        if self._queue_rows:
            compared, learnt = (joined(variables[QUEUE], some) for some in (rows, held))
            kept[QUEUE] = pushed(variables[QUEUE], held)
        if self._game:
            kept[ADVERSARY] = self._game.train(variables[ADVERSARY], learnt)
            site = self._game.encoder_loss(kept[ADVERSARY], compared, len(rows["mask"]))
        else:
            site = whole_gradient(self._site_term(compared), compared, rows)
        return mean_over(site, axis_name), kept

    def _combine(self, prediction: jax.Array, reconstruction: jax.Array, site: jax.Array) -> jax.Array:
        return (
            self._weights.prediction_weight * prediction
            + self._weights.reconstruction_weight * reconstruction
            + self._weights.site_weight * site
        )


def _networks(variables: Variables) -> Variables:
    """Returns the variables without those of `_site_of_step`."""
    return {name: tree for name, tree in variables.items() if name not in (QUEUE, ADVERSARY)}


def _site_term(config: RunConfig, num_sites: int) -> Term:
    """Returns the site term of rows (N, ...) that `config.method` names; 0 for naive, and for cai, which is a game."""
    kernel = kernel_options(config.baseline, num_sites)
    terms: dict[str, Term] = {
        "mmd": lambda rows: mmd(rows["latent"], rows["site"], mask=rows["mask"], **kernel),
        "ss": lambda rows: grouped_mmd(
            rows["latent"], rows["site"], rows["decile"], num_groups=DECILES, mask=rows["mask"], **kernel
        ),
        "rm": lambda rows: matched_distance(
            rows["latent"], rows["site"], rows["match"], num_sites=num_sites, mask=rows["mask"]
        ),
    }
    return terms.get(config.method, lambda rows: jnp.zeros(()))
