"""One batch's pass through the networks of an ISTN and its losses (Robinson et al. 2020, eqs. (1) to (3))."""

from typing import Any

import jax
import jax.numpy as jnp

from eqpool.config import IstnConfig, RunConfig
from eqpool.data.shape import DataShape
from eqpool.engine.state import Batch, Variables, of_network
from eqpool.geometry.warp import bending_energy
from eqpool.losses.adversarial import (
    adversarial_loss,
    discriminator_loss,
    gradient_penalty,
    image_distance,
    soft_labels,
)
from eqpool.models.istn import IstnOutput
from eqpool.objectives.istn_networks import TASK_MODELS, make_discriminator, make_transformer, site_condition
from eqpool.objectives.prediction import prediction_loss
from eqpool.objectives.task import apply_task
from eqpool.ops.devices import AxisName
from eqpool.ops.rows import masked_mean

Terms = dict[str, jax.Array]


class Game:
    """One batch's pass through the networks, which collects batch statistics and draws soft labels."""

    def __init__(
        self,
        config: RunConfig,
        shape: DataShape,
        variables: Variables,
        key: jax.Array,
        axis_name: AxisName = None,
    ):
        self.settings, self.num_sites, self.axis_name = config.istn, shape.sites, axis_name
        self._config, self._num_classes, self._variables, self._key = config, shape.classes, variables, key
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
            axis_name=self.axis_name,
            rngs={"dropout": self._next_key()},
            mutable=["batch_stats"],
        )
        if averaged:
            self.batch_stats[name] = updated["batch_stats"]
        return output  # type: ignore

    def generator_loss(self, judge: str, generated: jax.Array, mask: jax.Array) -> jax.Array:
        """Computes L_adv, which trains the generator to pass its images as real. The judge's weights are constants."""
        return self._generator_loss(jax.lax.stop_gradient(self._variables["params"][judge]), generated, mask)

    def discriminator_loss(self, judge: str, generated: jax.Array, real: jax.Array, mask: jax.Array) -> jax.Array:
        """Computes eq. (1), which trains the judge on given images."""
        return self._discriminator_loss(self._variables["params"][judge], generated, real, mask, mask)

    def _generator_loss(self, judge: Any, generated: jax.Array, mask: jax.Array) -> jax.Array:
        logits, labels = self._logits(judge, generated), self._labels(len(generated), real=True)
        return adversarial_loss(logits, labels, mask=mask, axis_name=self.axis_name)

    def _discriminator_loss(
        self, judge: Any, generated: jax.Array, real: jax.Array, generated_mask: jax.Array, real_mask: jax.Array
    ) -> jax.Array:
        images = jnp.concatenate([jax.lax.stop_gradient(generated), real])
        generated_logits, real_logits = jnp.split(self._logits(judge, images), [len(generated)])
        loss = discriminator_loss(
            generated_logits,
            real_logits,
            self._labels(len(generated), real=False),
            self._labels(len(real), real=True),
            generated_mask=generated_mask,
            real_mask=real_mask,
            axis_name=self.axis_name,
        )
        weight = self.settings.gradient_penalty
        if not weight:
            return loss
        return loss + weight * gradient_penalty(
            lambda images: self._logits(judge, images), real, mask=real_mask, axis_name=self.axis_name
        )

    def task_losses(self, task: Any, images: jax.Array, batch: Batch) -> tuple[Terms, jax.Array]:
        """Computes both task models' losses on fixed S2T images, and the end-to-end loss.

        The end-to-end loss is that of the fine-tuned model with its weights held constant, so that it trains the
        transformer.
        """
        losses, mask = {}, batch["mask"]
        for name in TASK_MODELS:
            own = {"params": self._variables["params"][name], "batch_stats": self.batch_stats.get(name, {})}
            prediction, updated = apply_task(
                task,
                own,
                jax.lax.stop_gradient(images),
                train=True,
                mask=mask,
                axis_name=self.axis_name,
                rngs={"dropout": self._next_key()},
                mutable=["batch_stats"],
            )
            if name in self.batch_stats:  # the age regressor has no batch statistics
                self.batch_stats[name] = updated["batch_stats"]
            losses[name] = self._task_loss(prediction, batch)
        through = jnp.zeros(())
        if self.settings.task_weight:
            held = jax.lax.stop_gradient(of_network(self._variables, "finetuned"))
            prediction = apply_task(task, held, images, train=False)
            through = self._task_loss(prediction, batch)
        return losses, through

    def _task_loss(self, prediction: jax.Array, batch: Batch) -> jax.Array:
        return prediction_loss(self._config, prediction, batch, self._num_classes, batch["mask"], self.axis_name)

    def image_distance(self, first: jax.Array, second: jax.Array, mask: jax.Array) -> jax.Array:
        """Computes the l1 distance of images over the rows of all devices."""
        return image_distance(first, second, mask=mask, axis_name=self.axis_name)

    def bending(self, output: IstnOutput, shape: tuple[int, ...], mask: jax.Array) -> jax.Array:
        """Computes the mean bending energy of the deformations over the rows of all devices, 0 without an STN."""
        if output.deformation is None:
            return jnp.zeros(())
        return masked_mean(bending_energy(output.deformation.displacement(shape)), mask, axis_name=self.axis_name)

    def _logits(self, params: Any, images: jax.Array) -> jax.Array:
        if self.settings.instance_noise:
            images = images + self.settings.instance_noise * jax.random.normal(self._next_key(), images.shape)
        logits = self._judge.apply({"params": params}, images, train=True, rngs={"dropout": self._next_key()})
        return logits  # type: ignore

    def _labels(self, count: int, *, real: bool) -> jax.Array:
        return soft_labels(self._next_key(), count, real=real, softness=self.settings.softness)

    def _next_key(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key


def to_reference_terms(game: Game, source: jax.Array, reference: jax.Array, batch: Batch) -> tuple[jax.Array, Terms]:
    """Computes S2T (N, *shape, 1) and its terms: discriminator, identity, bending energy and change of appearance."""
    settings, mask = game.settings, batch["mask"]
    masks = jnp.concatenate([mask, mask])
    both = jnp.concatenate([source, reference])
    sites = jnp.concatenate([batch["site"], batch["reference_site"]])
    condition = site_condition(sites, game.num_sites, settings.direction)
    output = game.transform("to_reference", both, masks, condition)
    to_reference, reference_itself = jnp.split(output.image, [len(source)])
    terms = {
        "generator": game.generator_loss("reference_judge", to_reference, mask),
        "identity": game.image_distance(reference_itself, reference, mask),
        "discriminator": game.discriminator_loss("reference_judge", to_reference, reference, mask),
        "bending": jnp.zeros(()),
        "change": game.image_distance(output.appearance[: len(source)], source, mask),
    }
    if settings.bending_weight:
        terms["bending"] = game.bending(output, source.shape[1:-1], masks)
    return to_reference, terms


def to_source_terms(
    game: Game, source: jax.Array, reference: jax.Array, to_reference: jax.Array, mask: jax.Array
) -> Terms:
    """Computes the terms of T2S: its own discriminator and identity, and both cycles (CycleGAN)."""
    inputs = jnp.concatenate([reference, source, to_reference])
    output = game.transform("to_source", inputs, jnp.concatenate([mask, mask, mask]))
    to_source, source_itself, cycled = jnp.split(output.image, [len(reference), len(reference) + len(source)])
    again = game.transform("to_reference", to_source, mask, averaged=False).image
    bending = {}
    if game.settings.bending_weight:
        bending["bending_back"] = game.bending(output, source.shape[1:-1], jnp.concatenate([mask, mask, mask]))
    return bending | {
        "generator_back": game.generator_loss("source_judge", to_source, mask),
        "identity_back": game.image_distance(source_itself, source, mask),
        "discriminator_back": game.discriminator_loss("source_judge", to_source, source, mask),
        "change_back": game.image_distance(output.appearance[: len(reference)], reference, mask),
        "cycle": game.image_distance(cycled, source, mask) + game.image_distance(again, reference, mask),
    }


def total_loss(settings: IstnConfig, terms: Terms, through: jax.Array) -> jax.Array:
    """Sums the losses of all networks (eqs. (1) to (3)). `through` is the end-to-end task loss."""
    distances = terms["identity"] / 2 + terms.get("identity_back", 0) / 2 + terms.get("cycle", 0)
    return (
        terms["generator"] + terms.get("generator_back", 0)
        + terms["discriminator"] + terms.get("discriminator_back", 0)
        + settings.image_weight * distances
        + settings.bending_weight * (terms["bending"] + terms.get("bending_back", 0))
        + settings.change_weight * (terms["change"] + terms.get("change_back", 0))
        + settings.consistency_weight * terms.get("consistency", 0)
        + settings.task_weight * through
        + sum(terms[name] for name in TASK_MODELS)
    )  # fmt: skip
