"""Notices from its training log that the adversarial game of an ISTN collapsed, and names the setting to change."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eqpool.config import IstnConfig

CHANCE_LOSS = math.log(2)  # of a discriminator that cannot tell images apart
FEWEST = 4  # epochs or validations; from fewer nothing is concluded
_AT_LIMIT = 0.15  # of the way from the least loss to that of chance
_BLIND = 0.97  # of the loss of chance
_LATE = 0.25  # share of the epochs, or of the validations, that are the end of training
_RISE = 0.25  # of the distance between the images as they are
_NOISE = 0.01  # MMD^2; what the distance of some dozens of images varies by

Record = Mapping[str, Any]


class Game(NamedTuple):
    """What the training log says of the end of the game.

    Attributes:
      epochs: number of epochs.
      discriminator: mean loss of the strongest discriminator over the last epochs, NaN if it is not known.
      scores: (V,) distances of S2T to the reference's images, of each validation.
      validated: (V,) epochs of these.
    """

    epochs: int
    discriminator: float
    scores: np.ndarray
    validated: np.ndarray

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Game":
        """Reads the records of the stage "istn"."""
        own = [record for record in records if record["stage"] == "istn"]
        judges = [name for name in ("discriminator", "discriminator_back") if own and name in own[-1]]
        last = own[-_late(len(own)) :]
        losses = [float(np.mean([record[name] for record in last])) for name in judges]
        judged = [record for record in own if "validation_score" in record]
        scores = np.array([record["validation_score"] for record in judged])
        known = losses and len(own) >= FEWEST
        validated = np.array([record["epoch"] for record in judged])
        return cls(len(own), min(losses) if known else math.nan, scores, validated)


def least_discriminator_loss(softness: float) -> float:
    """Returns the loss of a discriminator that tells all images apart, the entropy of the mean soft label."""
    missed = softness / 2
    return -(missed * math.log(missed) + (1 - missed) * math.log(1 - missed)) if missed else 0.0


def describe_collapse(records: Sequence[Record], config: IstnConfig, untouched: float) -> str:
    """Returns a line on what went wrong and which setting to change, "" if nothing did.

    The game has collapsed if the last quarter of the epochs has a discriminator at its limit, which teaches the
    generator nothing, or images that are farther from the reference's than they were at best. It has not begun if the
    images never came nearer than they are without the ISTN.

    Args:
      records: records of metrics.jsonl.
      config: settings of the ISTN.
      untouched: distance between the validation images as they are.
    """
    game = Game.of(records)
    least = least_discriminator_loss(config.softness)
    at_limit = game.discriminator < least + _AT_LIMIT * (CHANCE_LOSS - least)
    rose, nearer = _rise(game, untouched), _came_nearer(game, untouched)
    found = []
    if at_limit:
        found.append(
            f"the discriminator tells nearly all images apart (loss {game.discriminator:.2g} in the last epochs, "
            f"{least:.2g} at the least)"
        )
    if rose:
        found.append(rose)
    if found:
        remedy = _weaken_discriminator(config) if at_limit else _hold_images(config)
        return f"The ISTN's game collapsed: {' and '.join(found)}; {remedy}"
    if not nearer:
        best = f"{game.scores.min():.2g}"
        return f"The ISTN brought images no nearer to the reference's ({best}, {untouched:.2g} as they are); " + (
            _strengthen_discriminator(config) if game.discriminator > _BLIND * CHANCE_LOSS else _free_images(config)
        )
    return ""


def _late(count: int) -> int:
    return max(1, round(_LATE * count))


def _rise(game: Game, untouched: float) -> str:
    """Returns how far the images went from the reference's after they were nearest, "" if they did not."""
    if len(game.scores) < FEWEST:
        return ""
    best, late = int(game.scores.argmin()), float(np.median(game.scores[-_late(len(game.scores)) :]))
    if late - game.scores[best] <= max(_RISE * untouched, _NOISE):
        return ""
    return (
        f"the image distance rose from {game.scores[best]:.2g} in epoch {game.validated[best]}, which is kept, to "
        f"{late:.2g} by epoch {game.epochs}"
    )


def _came_nearer(game: Game, untouched: float) -> bool:
    return len(game.scores) < FEWEST or untouched <= _NOISE or bool(game.scores.min() < untouched)


def _weaken_discriminator(config: IstnConfig) -> str:
    channels = ", ".join(map(str, config.discriminator))
    return (
        _turn_on(config, gradient_penalty=3, instance_noise=0.15)
        or f"halve the channels of config.istn.discriminator ({channels} now)"
    )


def _strengthen_discriminator(config: IstnConfig) -> str:
    change = _halve(config, "instance_noise", "gradient_penalty") or (
        f"double config.istn.learning_rate ({config.learning_rate:g} now)"
    )
    return f"its discriminator cannot tell them apart: {change}"


def _hold_images(config: IstnConfig) -> str:
    return _turn_on(config, change_weight=2, gradient_penalty=3) or _halve(config, "learning_rate")


def _free_images(config: IstnConfig) -> str:
    return _halve(config, "change_weight", "image_weight") or f"double config.istn.epochs ({config.epochs} now)"


def _turn_on(config: IstnConfig, **values: float) -> str:
    """Returns how to set the first of these settings that is 0, "" if none is."""
    off = (name for name in values if not getattr(config, name))
    return next((f"set config.istn.{name} to {values[name]:g} (0 now)" for name in off), "")


def _halve(config: IstnConfig, *names: str) -> str:
    """Returns how to halve the first of these settings that is not 0, "" if all are."""
    on = (name for name in names if getattr(config, name))
    return next((f"halve config.istn.{name} ({getattr(config, name):g} now)" for name in on), "")
