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
from eqpool.geometry.warp import bending_energy, folding_count
from eqpool.losses.adversarial import (
    adversarial_loss,
    discriminator_loss,
    gradient_penalty,
    image_distance,
    soft_labels,
)
from eqpool.losses.mmd import mmd
from eqpool.models.discriminator import Discriminator
from eqpool.models.istn import ISTN, IstnOutput
from eqpool.objectives.prediction import prediction_loss
from eqpool.objectives.task import apply_task, as_images, task_network
from eqpool.ops.numerics import safe_norm
from eqpool.ops.rows import masked_mean

TASK_MODELS = ("scratch", "finetuned")


def make_transformer(config: RunConfig) -> ISTN:
    """Makes the ISTN that `config.istn` describes."""
    settings = config.istn
    return ISTN(
        appearance=settings.appearance,
        shape=settings.shape,
        encoder=settings.encoder,
        bottleneck=settings.bottleneck,
        decoder=settings.decoder,
        dropout=settings.dropout,
        residual=settings.residual,
        spacing=settings.spacing,
        max_displacement=settings.max_displacement,
        fill=settings.fill,
        dtype=jnp.dtype(config.model.compute_dtype),
    )


def make_discriminator(config: RunConfig) -> Discriminator:
    """Makes the discriminator that `config.istn` describes."""
    dtype = jnp.dtype(config.model.compute_dtype)
    return Discriminator(config.istn.discriminator, norm=config.istn.discriminator_norm, dtype=dtype)


def site_condition(site: jax.Array, num_sites: int) -> jax.Array | None:
    """Returns each image's site, (N, num_sites) one-hot, or None for two sites, which have only one direction."""
    return None if num_sites == 2 else jax.nn.one_hot(site, num_sites, dtype=jnp.float32)


def transform(
    config: RunConfig, variables: Variables, images: jax.Array, site: jax.Array, num_sites: int
) -> IstnOutput:
    """Computes S2T in inference mode.

    It maps (N, *shape) volumes in [-1, 1] of sites (N,) to the appearance of the reference site.
    """
    own = of_network(variables, "to_reference")
    condition = site_condition(site, num_sites)
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
    settings, input_shape, num_sites, num_classes = config.istn, shape.inputs, shape.sites, shape.classes
    two_way = settings.direction == "two_way"
    if two_way and num_sites != 2:
        raise ValueError(f"two ways between {num_sites} sites, expected 2")
    transformers = ("to_reference", "to_source") if two_way else ("to_reference",)
    judges = {"to_reference": "reference_judge", "to_source": "source_judge"}
    transformer, judge = make_transformer(config), make_discriminator(config)
    task = task_network(config, num_classes)

    def initialise(key: jax.Array) -> Variables:
        images = jnp.zeros((2, *input_shape, 1))
        condition = site_condition(jnp.zeros(2, jnp.int32), num_sites)
        variables: Variables = {"params": {}, "batch_stats": {}}

        def add(name: str, own: Any) -> None:
            for collection, tree in own.items():
                variables[collection][name] = tree

        for number, name in enumerate(transformers):
            own = jax.random.fold_in(key, number)
            add(name, init_variables(transformer, own, images, train=False, condition=condition))
            add(judges[name], init_variables(judge, jax.random.fold_in(own, 1), images, train=False))
        add("scratch", init_variables(task, jax.random.fold_in(key, 100), images, train=False))
        add("finetuned", jax.tree.map(jnp.copy, pretrained))  # a copy, as the state is donated
        return variables

    def loss(variables: Variables, batch: Batch, key: jax.Array, epoch: jax.Array) -> LossValue:
        del epoch
        source, reference = as_images(batch["inputs"]), as_images(batch["reference_inputs"])
        mask = batch["mask"]
        masks = jnp.concatenate([mask, mask])
        game = Game(config, variables, key)

        both = jnp.concatenate([source, reference])
        condition = site_condition(jnp.concatenate([batch["site"], batch["reference_site"]]), num_sites)
        output = game.transform("to_reference", both, masks, condition)
        to_reference, reference_itself = jnp.split(output.image, [len(source)])
        terms = {
            "generator": game.generator_loss("reference_judge", to_reference, mask),
            "identity": image_distance(reference_itself, reference, mask=mask),
            "discriminator": game.discriminator_loss("reference_judge", to_reference, reference, mask),
            "bending": jnp.zeros(()),
            "change": image_distance(output.appearance[: len(source)], source, mask=mask),
        }
        if settings.bending_weight:
            terms["bending"] = _bending(output, input_shape, masks)
        if two_way:
            terms |= _way_back(settings, game, source, reference, to_reference, mask)
        task_terms, through = game.task_losses(task, to_reference, batch, num_classes)
        terms |= task_terms

        return LossValue(_total(settings, terms, through), terms, {"batch_stats": game.batch_stats})

    def forward(variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        output = transform(config, variables, batch["inputs"], batch["site"], num_sites)
        predictions = {
            name: apply_task(task, of_network(variables, name), output.image, train=False) for name in TASK_MODELS
        }
        return {"image": output.image[..., 0]} | predictions | deformation_summary(output)

    def validate(outputs: dict[str, jax.Array], rows: Batch) -> dict[str, jax.Array]:
        distance = look_distance(outputs["image"], rows["reference_inputs"])
        task_terms = {name: prediction_loss(config, outputs[name], rows, num_classes) for name in TASK_MODELS}
        return {"score": distance} | task_terms

    return Stage(
        "istn",
        initialise,
        loss,
        forward,
        validate,
        followers=TASK_MODELS,
        average_decay=settings.average_decay,
        settings=settings,
        number=5,
        optimizer=functools.partial(make_game_optimizer, settings),
    )


def make_game_optimizer(config: IstnConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """Makes Adam, at `task_learning_rate` for task models and at `learning_rate` for all other networks."""
    game = make_optimizer(config, steps_per_epoch, config.momentum)
    task = optax.adamw(config.task_learning_rate, weight_decay=config.weight_decay)

    def label(params: Any) -> dict[str, str]:
        return {name: "task" if name in TASK_MODELS else "game" for name in params}

    return optax.multi_transform({"game": game, "task": task}, label)


def _total(settings: IstnConfig, terms: dict[str, jax.Array], through: jax.Array) -> jax.Array:
    """Sums the losses of all networks (eqs. (1) to (3)); `through` is the end-to-end task loss."""
    distances = terms["identity"] / 2 + terms.get("identity_back", 0) / 2 + terms.get("cycle", 0)
    return (
        terms["generator"] + terms.get("generator_back", 0)
        + terms["discriminator"] + terms.get("discriminator_back", 0)
        + settings.image_weight * distances
        + settings.bending_weight * (terms["bending"] + terms.get("bending_back", 0))
        + settings.change_weight * (terms["change"] + terms.get("change_back", 0))
        + settings.task_weight * through
        + sum(terms[name] for name in TASK_MODELS)
    )  # fmt: skip


def _way_back(
    settings: IstnConfig,
    game: "Game",
    source: jax.Array,
    reference: jax.Array,
    to_reference: jax.Array,
    mask: jax.Array,
) -> dict[str, jax.Array]:
    """Computes the terms of T2S: its own discriminator and identity, and both cycles (CycleGAN)."""
    inputs = jnp.concatenate([reference, source, to_reference])
    output = game.transform("to_source", inputs, jnp.concatenate([mask, mask, mask]))
    to_source, source_itself, cycled = jnp.split(output.image, [len(reference), len(reference) + len(source)])
    again = game.transform("to_reference", to_source, mask, averaged=False).image
    bending = {}
    if settings.bending_weight:
        bending["bending_back"] = _bending(output, source.shape[1:-1], jnp.concatenate([mask, mask, mask]))
    return bending | {
        "generator_back": game.generator_loss("source_judge", to_source, mask),
        "identity_back": image_distance(source_itself, source, mask=mask),
        "discriminator_back": game.discriminator_loss("source_judge", to_source, source, mask),
        "change_back": image_distance(output.appearance[: len(reference)], reference, mask=mask),
        "cycle": image_distance(cycled, source, mask=mask) + image_distance(again, reference, mask=mask),
    }


def _bending(output: IstnOutput, shape: tuple[int, ...], mask: jax.Array) -> jax.Array:
    if output.deformation is None:
        return jnp.zeros(())
    return masked_mean(bending_energy(output.deformation.displacement(shape)), mask)


class Game:
    """One batch's pass through the networks, which collects batch statistics and draws soft labels."""

    def __init__(self, config: RunConfig, variables: Variables, key: jax.Array):
        self._config, self._settings, self._variables, self._key = config, config.istn, variables, key
        self._transformer, self._judge = make_transformer(config), make_discriminator(config)
        self.batch_stats = dict(variables["batch_stats"])

    def transform(
        self,
        name: str,
        images: jax.Array,
        mask: jax.Array,
        condition: jax.Array | None = None,
        averaged: bool = True,
    ) -> IstnOutput:
        """Applies one transformer in training mode, with batch statistics over all given images.

        `averaged` says whether the running statistics include these images. They should only include images like those
        at inference.
        """
        own = {"params": self._variables["params"][name], "batch_stats": self.batch_stats[name]}
        output, updated = self._transformer.apply(
            own,
            images,
            train=True,
            condition=condition,
            mask=mask,
            rngs={"dropout": self._next_key()},
            mutable=["batch_stats"],
        )
        if averaged:
            self.batch_stats[name] = updated["batch_stats"]
        return output  # type: ignore

    def generator_loss(self, judge: str, generated: jax.Array, mask: jax.Array) -> jax.Array:
        """Computes L_adv, which trains the generator to pass its images as real. The judge's weights are constants."""
        logits = self._logits(jax.lax.stop_gradient(self._variables["params"][judge]), generated)
        return adversarial_loss(logits, self._labels(len(generated), real=True), mask=mask)

    def discriminator_loss(self, judge: str, generated: jax.Array, real: jax.Array, mask: jax.Array) -> jax.Array:
        """Computes eq. (1), which trains the judge on given images."""
        params = self._variables["params"][judge]
        images = jnp.concatenate([jax.lax.stop_gradient(generated), real])
        generated_logits, real_logits = jnp.split(self._logits(params, images), [len(generated)])
        told = discriminator_loss(
            generated_logits,
            real_logits,
            self._labels(len(generated), real=False),
            self._labels(len(real), real=True),
            generated_mask=mask,
            real_mask=mask,
        )
        weight = self._settings.gradient_penalty
        if not weight:
            return told
        return told + weight * gradient_penalty(lambda images: self._logits(params, images), real, mask=mask)

    def task_losses(
        self, task: Any, images: jax.Array, batch: Batch, num_classes: int
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """Computes both task models' losses on fixed S2T images, and the end-to-end loss.

        The end-to-end loss is that of the fine-tuned model with its weights held constant, so that it trains the
        transformer.
        """
        losses, mask = {}, batch["mask"]
        for name in TASK_MODELS:
            own = {"params": self._variables["params"][name], "batch_stats": self.batch_stats.get(name, {})}
            options = {"train": True, "mask": mask, "rngs": {"dropout": self._next_key()}, "mutable": ["batch_stats"]}
            prediction, updated = apply_task(task, own, jax.lax.stop_gradient(images), **options)
            if name in self.batch_stats:  # the age regressor has no batch statistics
                self.batch_stats[name] = updated["batch_stats"]
            losses[name] = prediction_loss(self._config, prediction, batch, num_classes, mask)
        through = jnp.zeros(())
        if self._settings.task_weight:
            held = jax.lax.stop_gradient(of_network(self._variables, "finetuned"))
            prediction = apply_task(task, held, images, train=False)
            through = prediction_loss(self._config, prediction, batch, num_classes, mask)
        return losses, through

    def _logits(self, params: Any, images: jax.Array) -> jax.Array:
        if self._settings.instance_noise:
            images = images + self._settings.instance_noise * jax.random.normal(self._next_key(), images.shape)
        logits = self._judge.apply({"params": params}, images, train=True, rngs={"dropout": self._next_key()})
        return logits  # type: ignore

    def _labels(self, count: int, *, real: bool) -> jax.Array:
        return soft_labels(self._next_key(), count, real=real, softness=self._settings.softness)

    def _next_key(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key
