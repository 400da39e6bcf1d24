"""The training state, the optimizer and one pure update."""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from eqpool.config import PoolingTrainingConfig, TrainingConfig
from eqpool.ops.devices import AxisName, key_of_device, mean_over

Variables = dict[str, Any]  # Flax's collections: "params", and "batch_stats" for networks with batch norm
Batch = dict[str, jax.Array]


class TrainState(NamedTuple):
    """The values of a stage that training changes.

    Attributes:
      variables: parameters and batch statistics.
      optimizer_state: optax's state.
      epoch: () int32, finished epochs.
      step: () int32, updates made.
      best_variables: variables of the epoch with the lowest validation score. Each follower has an epoch of its own.
      best_score: () float32, the lowest validation score.
      best_epoch: () int32, index of that epoch, counted from 0.
      follower_scores: () float32 for each of the stage's followers, its lowest loss since `best_epoch`.
      follower_epochs: () int32 for each follower, the number of finished epochs at its lowest loss; 0 if no follower
        has been kept since `best_epoch`.
      averages: running means of `variables` if the stage uses them, otherwise empty.
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
        """The variables to validate and keep: the averages if the stage uses them, otherwise the current ones."""
        return self.averages or self.variables


class LossValue(NamedTuple):
    """The value of a stage's loss for one batch.

    Attributes:
      total: () the number to minimise.
      terms: unweighted value of each term, for the log.
      batch_stats: updated batch statistics and other variables that the step changes without a gradient, or an empty
        dict.
    """

    total: jax.Array
    terms: dict[str, jax.Array]
    batch_stats: Variables


class StageFunctions(Protocol):
    """The functions of a stage as the methods of one object; see `Stage`."""

    def initialise(self, key: jax.Array) -> Variables:
        """Makes the initial variables."""
        ...

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, epoch: jax.Array, axis_name: AxisName = None
    ) -> LossValue:
        """Computes the loss of a batch in training mode."""
        ...

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Computes per-row outputs in inference mode."""
        ...

    def validate(self, outputs: dict[str, jax.Array], rows: Batch) -> dict[str, jax.Array]:
        """Computes named scalars, "score" among them."""
        ...


class Stage(NamedTuple):
    """A stage as pure functions, which `eqpool.engine.loop` can train.

    Attributes:
      name: name of the stage in the log and in its checkpoint folder.
      initialise: key -> variables.
      loss: (variables, batch, key, epoch, axis_name) -> LossValue, in training mode. `axis_name` is that of `update`.
      forward: (variables, batch) -> per-row outputs, in inference mode.
      validate: (outputs, rows) -> named scalars. The epoch with the lowest "score" is kept.
      keeps_last: keeps the last epoch instead.
      followers: names of networks that learn from the outputs of the other networks. Each is kept at an epoch of its
        own, the one with its lowest loss, which `validate` returns under the follower's name. Only epochs since the
        other networks were last kept count, as earlier losses were measured on other outputs.
      average_decay: decay per step of the running mean of all variables, which is then validated and kept; 0 for no
        mean.
      settings: epochs, batch size, learning rate and the like.
      number: number folded into the run's key, so that stages draw different random numbers; None for a hash of the
        name.
      optimizer: steps an epoch -> the optimizer; None for Adam with `settings`.
    """

    name: str
    initialise: Callable[[jax.Array], Variables]
    loss: Callable[[Variables, Batch, jax.Array, jax.Array, AxisName], LossValue]
    forward: Callable[[Variables, Batch], dict[str, jax.Array]]
    validate: Callable[[dict[str, jax.Array], Batch], dict[str, jax.Array]]
    keeps_last: bool = False
    followers: tuple[str, ...] = ()
    average_decay: float = 0.0
    settings: TrainingConfig = TrainingConfig()
    number: int | None = None
    optimizer: Callable[[int], optax.GradientTransformation] | None = None

    @classmethod
    def of(cls, name: str, functions: StageFunctions, settings: TrainingConfig, number: int, **options: Any) -> "Stage":
        """Builds a stage from an object with its functions.

        Args:
          name, settings, number: attributes of the stage. The last epoch is kept if the settings have a `keep_epoch`
            that is "last".
          functions: object whose methods are the stage's functions.
          options: other attributes of the stage.
        """
        return cls(
            name,
            functions.initialise,
            functions.loss,
            functions.forward,
            functions.validate,
            keeps_last=isinstance(settings, PoolingTrainingConfig) and settings.keep_epoch == "last",
            settings=settings,
            number=number,
            **options,
        )

    def make_optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        """Returns the stage's optimizer for this number of updates an epoch."""
        return (self.optimizer or functools.partial(make_optimizer, self.settings))(steps_per_epoch)

    def fold_in(self, key: jax.Array) -> jax.Array:
        """Derives the stage's own key from the run's key."""
        number = zlib.crc32(self.name.encode()) if self.number is None else self.number
        return jax.random.fold_in(key, number)


def init_variables(model: Any, key: Any, *examples: Any, **options: Any) -> Variables:
    """Calls Flax's `model.init` under jit. Initial values need only shapes, so the forward pass is never compiled."""
    return dict(jax.jit(lambda key: model.init(key, *examples, **options))(key))


@functools.lru_cache(maxsize=64)  # one object for equal settings, so that compiled epochs are reused
def make_optimizer(config: TrainingConfig, steps_per_epoch: int, momentum: float = 0.9) -> optax.GradientTransformation:
    """Makes Adam with decoupled weight decay and a learning rate that decays every `decay_every_epochs` epochs.

    See docs/method.md, section 7.
    """
    schedule = optax.exponential_decay(
        config.learning_rate,
        transition_steps=config.decay_every_epochs * steps_per_epoch,
        decay_rate=config.learning_rate_decay,
        staircase=True,
    )
    return optax.adamw(schedule, b1=momentum, weight_decay=config.weight_decay)


def create_state(stage: Stage, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """Creates the state before the first step."""
    variables = stage.initialise(key)
    return TrainState(
        variables=variables,
        optimizer_state=optimizer.init(variables["params"]),
        epoch=jnp.zeros((), jnp.int32),
        step=jnp.zeros((), jnp.int32),
        best_variables=jax.tree.map(jnp.copy, variables),  # a copy, as each buffer of the state is donated once
        best_score=jnp.full((), jnp.inf, jnp.float32),
        best_epoch=jnp.zeros((), jnp.int32),
        follower_scores={name: jnp.full((), jnp.inf, jnp.float32) for name in stage.followers},
        follower_epochs={name: jnp.zeros((), jnp.int32) for name in stage.followers},
        averages=jax.tree.map(jnp.copy, variables) if stage.average_decay else {},
    )


def update(
    stage: Stage,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    axis_name: AxisName = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one gradient step on one batch.

    Args:
      stage, optimizer, state: the stage, its optimizer and its state, which is the same on every device.
      batch: a batch, or inside `jax.pmap` and `jax.shard_map` this device's rows of it.
      key: random key of the step, the same on every device. Devices draw from keys of their own, so that random numbers
        such as dropout differ from those of one device. Nothing else does.
      axis_name: mapped axis or axes over whose devices the batch is spread. None under `jax.jit`, also where the batch
        is sharded.

    Returns:
      The new state and the loss terms, including "loss", their weighted sum, and "gradient_norm". A finite loss may
      have a gradient that is not finite and would spoil the checkpoint.
    """

    own_key = key_of_device(key, axis_name)

    def total(params: Any) -> tuple[jax.Array, LossValue]:
        value = stage.loss(state.variables | {"params": params}, batch, own_key, state.epoch, axis_name)
        return value.total, value

    gradient, value = jax.grad(total, has_aux=True)(state.variables["params"])
    gradient = mean_over(gradient, axis_name)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.variables["params"])
    params = optax.apply_updates(state.variables["params"], updates)
    variables = state.variables | value.batch_stats | {"params": params}
    averages = _averages(stage, state, variables)
    step = state.step + 1
    state = state._replace(variables=variables, optimizer_state=optimizer_state, step=step, averages=averages)
    return state, value.terms | {"loss": value.total, "gradient_norm": optax.tree.norm(gradient)}


def _averages(stage: Stage, state: TrainState, variables: Variables) -> Variables:
    """Updates the running means. The first steps decay faster, so that the initial values soon lose their weight."""
    if not stage.average_decay:
        return {}
    decay = jnp.minimum(stage.average_decay, (1 + state.step) / (10 + state.step))
    return optax.incremental_update(variables, state.averages, 1 - decay)  # type: ignore


def finish_epoch(stage: Stage, state: TrainState, validation: dict[str, jax.Array]) -> TrainState:
    """Counts the epoch, and keeps its variables if its score is the lowest or the stage keeps its last epoch."""
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
    """Returns the variables to validate followers with: the kept networks and the current followers."""
    return _replaced(state.best_variables, {name: of_network(state.judged, name) for name in stage.followers})


def keep_followers(stage: Stage, state: TrainState, validation: dict[str, jax.Array]) -> TrainState:
    """Keeps each follower that has its lowest loss on `with_followers` since the other networks were last kept."""
    chosen, scores, epochs = {}, {}, {}
    for name in stage.followers:
        better = validation[name] < state.follower_scores[name]
        chosen[name] = _choose(better, of_network(state.judged, name), of_network(state.best_variables, name))
        scores[name] = jnp.where(better, validation[name], state.follower_scores[name])
        epochs[name] = jnp.where(better, state.epoch, state.follower_epochs[name])
    kept = _replaced(state.best_variables, chosen)
    return state._replace(best_variables=kept, follower_scores=scores, follower_epochs=epochs)


def of_network(variables: Variables, name: str) -> Variables:
    """Selects one network's variables from all variables."""
    return {collection: tree[name] for collection, tree in variables.items() if name in tree}


def _replaced(variables: Variables, networks: dict[str, Variables]) -> Variables:
    """Returns all variables with those of some networks replaced."""
    return {
        collection: tree | {name: own[collection] for name, own in networks.items() if collection in own}
        for collection, tree in variables.items()
    }


def _choose(first: jax.Array | bool, one: Variables, other: Variables) -> Variables:
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)
