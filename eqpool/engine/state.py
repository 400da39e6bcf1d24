"""The training state, the optimizer and one pure update."""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eqpool.config import TrainingConfig

Variables = dict[str, Any]  # Flax's collections: "params", and "batch_stats" where there is batch norm
Batch = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that a stage changes while it trains.

    Attributes:
      variables: parameters and batch statistics.
      optimizer_state: optax's.
      epoch: () int32, epochs finished.
      step: () int32, updates made.
      best_variables: those of the epoch with the lowest validation score; of followers, of an epoch of their own.
      best_score: () float32, that score.
      best_epoch: () int32.
      follower_scores: of each of the stage's followers, () float32, the lowest since `best_epoch`.
      follower_epochs: after how many epochs, () int32, that was; 0: since the others were last kept none was.
      averages: running means of `variables`, where the stage wants them; elsewhere empty.
    """

    variables: Variables
    optimizer_state: optax.OptState
    epoch: jax.Array
    step: jax.Array
    best_variables: Variables
    best_score: jax.Array
    best_epoch: jax.Array
    follower_scores: dict[str, jax.Array]
    follower_epochs: dict[str, jax.Array]
    averages: Variables

    @property
    def judged(self) -> Variables:
        """What is validated and kept: the averages, where there are any."""
        return self.averages or self.variables


class LossValue(NamedTuple):
    """What a stage's loss returns for one batch.

    Attributes:
      total: () the number that is minimised.
      terms: each term's unweighted value, for the log.
      batch_stats: the updated batch statistics, or an empty dict.
    """

    total: jax.Array
    terms: dict[str, jax.Array]
    batch_stats: Variables


class Stage(NamedTuple):
    """A stage as pure functions; `eqpool.engine.loop` drives any of them.

    Attributes:
      name: of the stage, in the log and in the folder of its checkpoints.
      initialise: key -> variables.
      loss: (variables, batch, key, epoch) -> LossValue, in training mode.
      forward: (variables, batch) -> per-row outputs, in inference mode.
      validate: (outputs, rows) -> named scalars; "score" picks the epoch that is kept, lower being better.
      keeps_last: the last epoch is kept instead.
      followers: networks that learn from what the others make, each kept at an epoch of its own: of those since the
        others were last kept, as it has not seen what they make before, the one with its lowest loss on it,
        `validate`'s scalar of its name.
      average_decay: of the running mean over steps of all variables, which is what is validated and kept; 0: the last.
      settings: epochs, batch size, learning rate and the like.
      number: folded into the run's key, so that stages draw different numbers; None: a hash of the name.
      optimizer: steps an epoch -> the optimizer; None: Adam by `settings`.
    """

    name: str
    initialise: Callable[[jax.Array], Variables]
    loss: Callable[[Variables, Batch, jax.Array, jax.Array], LossValue]
    forward: Callable[[Variables, Batch], dict[str, jax.Array]]
    validate: Callable[[dict[str, jax.Array], Batch], dict[str, jax.Array]]
    keeps_last: bool = False
    followers: tuple[str, ...] = ()
    average_decay: float = 0.0
    settings: TrainingConfig = TrainingConfig()
    number: int | None = None
    optimizer: Callable[[int], optax.GradientTransformation] | None = None

    def make_optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        """Returns the stage's optimizer for so many updates an epoch."""
        return (self.optimizer or functools.partial(make_optimizer, self.settings))(steps_per_epoch)

    def fold_in(self, key: jax.Array) -> jax.Array:
        """Returns the stage's own key, out of the run's."""
        number = zlib.crc32(self.name.encode()) if self.number is None else self.number
        return jax.random.fold_in(key, number)


def init_variables(model: Any, key: Any, *examples: Any, **options: Any) -> Variables:
    """Flax's `model.init` under jit: initial values need shapes alone, so that the forward pass is never compiled."""
    return dict(jax.jit(lambda key: model.init(key, *examples, **options))(key))


@functools.lru_cache(maxsize=64)  # the same object for the same settings, so that compiled epochs serve again
def make_optimizer(config: TrainingConfig, steps_per_epoch: int, momentum: float = 0.9) -> optax.GradientTransformation:
    """Adam, its weight decay decoupled; the rate falls every `decay_every_epochs` epochs (docs/method.md,
    section 7).
    """
    schedule = optax.exponential_decay(
        config.learning_rate,
        transition_steps=config.decay_every_epochs * steps_per_epoch,
        decay_rate=config.learning_rate_decay,
        staircase=True,
    )
    return optax.adamw(schedule, b1=momentum, weight_decay=config.weight_decay)


def create_state(stage: Stage, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before the first step."""
    variables = stage.initialise(key)
    return TrainState(
        variables=variables,
        optimizer_state=optimizer.init(variables["params"]),
        epoch=jnp.zeros((), jnp.int32),
        step=jnp.zeros((), jnp.int32),
        best_variables=jax.tree.map(jnp.copy, variables),  # a copy: the state is donated, and buffers only once
        best_score=jnp.full((), jnp.inf, jnp.float32),
        best_epoch=jnp.zeros((), jnp.int32),
        follower_scores={name: jnp.full((), jnp.inf, jnp.float32) for name in stage.followers},
        follower_epochs={name: jnp.zeros((), jnp.int32) for name in stage.followers},
        averages=jax.tree.map(jnp.copy, variables) if stage.average_decay else {},
    )


def update(
    stage: Stage, optimizer: optax.GradientTransformation, state: TrainState, batch: Batch, key: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One gradient step on one batch: the new state and the loss terms, with "loss" their weighted sum.

    "gradient_norm" is among the terms because a finite loss may have a gradient that is not, and spoil what is saved.
    """

    def total(params: Any) -> tuple[jax.Array, LossValue]:
        value = stage.loss(state.variables | {"params": params}, batch, key, state.epoch)
        return value.total, value

    gradient, value = jax.grad(total, has_aux=True)(state.variables["params"])
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.variables["params"])
    params = optax.apply_updates(state.variables["params"], updates)
    variables = state.variables | value.batch_stats | {"params": params}
    averages = _averages(stage, state, variables)
    step = state.step + 1
    state = state._replace(variables=variables, optimizer_state=optimizer_state, step=step, averages=averages)
    return state, value.terms | {"loss": value.total, "gradient_norm": optax.tree.norm(gradient)}


def _averages(stage: Stage, state: TrainState, variables: Variables) -> Variables:
    """The running means after a step; the first steps forget faster, so that the initial values are soon gone."""
    if not stage.average_decay:
        return {}
    decay = jnp.minimum(stage.average_decay, (1 + state.step) / (10 + state.step))
    return optax.incremental_update(variables, state.averages, 1 - decay)  # type: ignore


def finish_epoch(stage: Stage, state: TrainState, validation: dict[str, jax.Array]) -> TrainState:
    """Counts the epoch and keeps its variables if the validation score is the lowest so far, or the stage's last is."""
    better = stage.keeps_last | (validation["score"] < state.best_score)
    return state._replace(
        epoch=state.epoch + 1,
        best_variables=_choose(better, state.judged, state.best_variables),
        best_score=jnp.where(better, validation["score"], state.best_score),
        best_epoch=jnp.where(better, state.epoch, state.best_epoch),
        follower_scores=jax.tree.map(lambda score: jnp.where(better, jnp.inf, score), state.follower_scores),
        follower_epochs=jax.tree.map(lambda epoch: jnp.where(better, 0, epoch), state.follower_epochs),
    )


def with_followers(stage: Stage, state: TrainState) -> Variables:
    """What the followers are validated with: the networks that are kept, and the followers as they are now."""
    return _replaced(state.best_variables, {name: of_network(state.judged, name) for name in stage.followers})


def keep_followers(stage: Stage, state: TrainState, validation: dict[str, jax.Array]) -> TrainState:
    """Keeps each follower whose loss, measured on `with_followers`, is its lowest since the others were kept."""
    chosen, scores, epochs = {}, {}, {}
    for name in stage.followers:
        better = validation[name] < state.follower_scores[name]
        chosen[name] = _choose(better, of_network(state.judged, name), of_network(state.best_variables, name))
        scores[name] = jnp.where(better, validation[name], state.follower_scores[name])
        epochs[name] = jnp.where(better, state.epoch, state.follower_epochs[name])
    kept = _replaced(state.best_variables, chosen)
    return state._replace(best_variables=kept, follower_scores=scores, follower_epochs=epochs)


def of_network(variables: Variables, name: str) -> Variables:
    """One network's collections out of those of all."""
    return {collection: tree[name] for collection, tree in variables.items() if name in tree}


def _replaced(variables: Variables, networks: dict[str, Variables]) -> Variables:
    """The variables of all, those of some networks exchanged."""
    return {
        collection: tree | {name: own[collection] for name, own in networks.items() if collection in own}
        for collection, tree in variables.items()
    }


def _choose(first: jax.Array | bool, one: Variables, other: Variables) -> Variables:
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)
