"""The ISTN's adversarial step, one or two way, with retraining of the task models (Robinson et al. 2020, section 2).

All networks learn in one backward pass through one sum. Each term stops the gradient to networks that it should not
train. A discriminator sees the generated image as a constant, the generator sees the discriminator's weights as
constants, and the task models see S2T as given. So one pure update serves the ISTN, as it does every stage.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eqpool.config import IstnConfig, RunConfig
from eqpool.data.shape import DataShape
from eqpool.engine.state import Batch, LossValue, Stage, Variables, init_variables, make_optimizer, of_network
from eqpool.geometry.warp import folding_count
from eqpool.losses.mmd import mmd
from eqpool.models.istn import IstnOutput
from eqpool.objectives.istn_game import Game, to_reference_terms, to_source_terms, total_loss
from eqpool.objectives.istn_networks import TASK_MODELS, make_discriminator, make_transformer, site_condition
from eqpool.objectives.istn_universal import UniversalGame
from eqpool.objectives.prediction import prediction_loss
from eqpool.objectives.task import apply_task, as_images, task_network
from eqpool.ops.devices import AxisName
from eqpool.ops.numerics import safe_norm

_JUDGES = {"to_reference": "reference_judge", "to_source": "source_judge"}  # of each transformer


def make_istn(config: RunConfig, shape: DataShape, pretrained: Variables) -> Stage:
    """Assembles the stage "istn". `pretrained` holds the variables of the task model trained on the source.

    Batches hold the source's `inputs` (N, *shape.inputs) in [-1, 1], `site`, `target` and `target_known` (N,), the
    reference's `reference_inputs` and `reference_site`, and the `mask` that both share. They hold nothing about the
    reference's targets.

    The validation score is the MMD between S2T and T (unbiased, Gaussian, median distance), which needs no label of T.
    It selects the epoch of the transformers. The task models are followers: each is kept at its lowest loss on S2T of
    the source's held-out rows, so that only source labels choose it.

    Raises:
      ValueError: `direction` is two_way with more than two sites.
    """
    if config.istn.direction == "two_way" and shape.sites != 2:
        raise ValueError(f"two ways between {shape.sites} sites, expected 2")
    return Stage.of(
        "istn",
        _Istn(config, shape, pretrained),
        config.istn,
        5,
        followers=TASK_MODELS,
        average_decay=config.istn.average_decay,
        optimizer=functools.partial(make_game_optimizer, config.istn),
    )


class _Istn:
    """The functions of the stage "istn", see `eqpool.engine.state.StageFunctions`."""

    def __init__(self, config: RunConfig, shape: DataShape, pretrained: Variables):
        self._config, self._shape, self._pretrained = config, shape, pretrained
        self._two_way, self._universal = (config.istn.direction == name for name in ("two_way", "universal"))
        self._task = task_network(config, shape.classes)

    def initialise(self, key: jax.Array) -> Variables:
        images = jnp.zeros((2, *self._shape.inputs, 1))
        condition = site_condition(jnp.zeros(2, jnp.int32), self._shape.sites, self._config.istn.direction)
        transformer, judge = make_transformer(self._config), make_discriminator(self._config)
        variables: Variables = {"params": {}, "batch_stats": {}}

        def add(name: str, own: Any) -> None:
            for collection, tree in own.items():
                variables[collection][name] = tree

        for number, name in enumerate(("to_reference", "to_source") if self._two_way else ("to_reference",)):
            own = jax.random.fold_in(key, number)
            add(name, init_variables(transformer, own, images, train=False, condition=condition))
            add(_JUDGES[name], self._initial_judge(judge, jax.random.fold_in(own, 1), images))
        add("scratch", init_variables(self._task, jax.random.fold_in(key, 100), images, train=False))
        add("finetuned", jax.tree.map(jnp.copy, self._pretrained))  # a copy, as the state is donated
        return variables

    def _initial_judge(self, judge: Any, key: jax.Array, images: jax.Array) -> Variables:
        if not self._universal:
            return init_variables(judge, key, images, train=False)
        keys = jax.random.split(key, self._shape.sites)
        return dict(jax.jit(jax.vmap(lambda key: judge.init(key, images, train=False)))(keys))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, epoch: jax.Array, axis_name: AxisName = None
    ) -> LossValue:
        del epoch
        source, reference = as_images(batch["inputs"]), as_images(batch["reference_inputs"])
        arguments = (self._config, self._shape, variables, key, axis_name)
        game = UniversalGame(*arguments, site=batch["site"]) if self._universal else Game(*arguments)
        to_reference, terms = to_reference_terms(game, source, reference, batch)
        if isinstance(game, UniversalGame):
            terms |= game.consistency_terms(source, reference, to_reference, batch["mask"])
        if self._two_way:
            terms |= to_source_terms(game, source, reference, to_reference, batch["mask"])
        task_terms, through = game.task_losses(self._task, to_reference, batch)
        terms |= task_terms
        return LossValue(total_loss(self._config.istn, terms, through), terms, {"batch_stats": game.batch_stats})

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        output = transform(self._config, variables, batch["inputs"], batch["site"], self._shape.sites)
        predictions = {
            name: apply_task(self._task, of_network(variables, name), output.image, train=False) for name in TASK_MODELS
        }
        return {"image": output.image[..., 0]} | predictions | deformation_summary(output)

    def validate(self, outputs: dict[str, jax.Array], rows: Batch) -> dict[str, jax.Array]:
        distance = look_distance(outputs["image"], rows["reference_inputs"])
        classes = self._shape.classes
        task_terms = {name: prediction_loss(self._config, outputs[name], rows, classes) for name in TASK_MODELS}
        return {"score": distance} | task_terms


def make_game_optimizer(config: IstnConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """Makes Adam, at `task_learning_rate` for task models and at `learning_rate` for all other networks."""
    game = make_optimizer(config, steps_per_epoch, config.momentum)
    task = optax.adamw(config.task_learning_rate, weight_decay=config.weight_decay)

    def label(params: Any) -> dict[str, str]:
        return {name: "task" if name in TASK_MODELS else "game" for name in params}

    return optax.multi_transform({"game": game, "task": task}, label)


def transform(
    config: RunConfig, variables: Variables, images: jax.Array, site: jax.Array, num_sites: int
) -> IstnOutput:
    """Computes S2T in inference mode.

    It maps (N, *shape) volumes in [-1, 1] of sites (N,) to the appearance of the reference site.
    """
    own = of_network(variables, "to_reference")
    condition = site_condition(site, num_sites, config.istn.direction)
    return make_transformer(config).apply(own, as_images(images), train=False, condition=condition)  # type: ignore


def deformation_summary(output: IstnOutput) -> dict[str, jax.Array]:
    """Returns each image's number of folded voxels (N,) and the mean length of its displacement (N,) in voxels."""
    if output.deformation is None:
        zero = jnp.zeros(len(output.image))
        return {"folded_voxels": zero, "mean_displacement": zero}
    displacement = output.deformation.displacement(output.image.shape[1:-1])
    length = safe_norm(displacement).reshape(len(displacement), -1).mean(axis=1)
    return {"folded_voxels": folding_count(displacement).astype(jnp.float32), "mean_displacement": length}


def look_distance(images: jax.Array, reference: jax.Array) -> jax.Array:
    """Computes MMD^2 between images (N, *shape) and (M, *shape).

    The estimate is unbiased, with a Gaussian kernel at the median distance. Its expectation is 0 for equal
    distributions.
    """
    both = jnp.concatenate([images, reference]).reshape(len(images) + len(reference), -1)
    side = (jnp.arange(len(both)) >= len(images)).astype(jnp.int32)
    return mmd(both, side, num_sites=2, kernel="gaussian", bandwidth="median", estimator="unbiased")
