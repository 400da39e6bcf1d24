"""Made-up logs of adversarial games: those that collapse are named with the setting to change, sound ones are not."""

import math

import numpy as np
import pytest
from scipy.stats import entropy

from eqpool.config import IstnConfig
from eqpool.evaluate.collapse import CHANCE_LOSS, describe_collapse, least_discriminator_loss

UNTOUCHED = 0.1
SOUND = np.linspace(0.6, 0.5, 20)
FALLING = np.concatenate([np.linspace(0.09, 0.02, 12), np.full(8, 0.022)])
RISING = np.concatenate([np.linspace(0.09, 0.02, 6), np.linspace(0.03, 0.3, 14)])
WON = np.concatenate([np.linspace(0.6, 0.1, 10), np.full(10, 0.08)])


def log(discriminator=SOUND, scores=FALLING, every: int = 1, **more) -> list[dict]:
    task = [{"stage": "task", "epoch": 1, "loss": 0.0, "validation_score": 9.0}]
    records = [
        {"stage": "istn", "epoch": epoch + 1, "discriminator": float(loss)}
        | {name: float(values[epoch]) for name, values in more.items()}
        | ({"validation_score": float(score)} if (epoch + 1) % every == 0 else {})
        for epoch, (loss, score) in enumerate(zip(discriminator, scores, strict=True))
    ]
    return task + records


def test_the_least_loss_is_the_entropy_of_the_mean_label():
    for softness in (0.03, 0.5):
        assert least_discriminator_loss(softness) == pytest.approx(entropy([softness / 2, 1 - softness / 2]))
    assert least_discriminator_loss(0.0) == 0 and math.log(2) == CHANCE_LOSS


@pytest.mark.parametrize(
    "records",
    [
        log(),
        log(every=2),
        log(np.full(20, CHANCE_LOSS)),  # cannot tell because the images are alike
        log(scores=FALLING + np.random.default_rng(0).normal(0, 0.004, 20)),
        log(WON[:3], RISING[:3]),  # too short to say
        [],
    ],
    ids=["sound", "validated every second epoch", "alike", "noisy", "short", "empty"],
)
def test_a_sound_game_is_not_warned_of(records):
    assert describe_collapse(records, IstnConfig(), UNTOUCHED) == ""


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({}, "set config.istn.gradient_penalty to 3 (0 now)"),
        ({"gradient_penalty": 3.0}, "set config.istn.instance_noise to 0.15 (0 now)"),
        (
            {"gradient_penalty": 3.0, "instance_noise": 0.1, "discriminator": (8, 16)},
            "halve the channels of config.istn.discriminator (8, 16 now)",
        ),
    ],
)
def test_a_discriminator_at_its_limit_is_to_be_weakened(settings, remedy):
    config = IstnConfig(**settings)
    for records in (log(WON), log(discriminator_back=WON), log(WON, RISING)):
        said = describe_collapse(records, config, UNTOUCHED)
        assert said.startswith("The ISTN's game collapsed: the discriminator tells nearly all images apart (loss 0.08")
        assert said.endswith(f"; {remedy}") and "\n" not in said and not said.endswith(".")


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({}, "set config.istn.change_weight to 2 (0 now)"),
        ({"change_weight": 2.0}, "set config.istn.gradient_penalty to 3 (0 now)"),
        ({"change_weight": 2.0, "gradient_penalty": 3.0}, "halve config.istn.learning_rate (0.001 now)"),
    ],
)
def test_images_that_go_away_again_are_to_be_held(settings, remedy):
    said = describe_collapse(log(scores=RISING), IstnConfig(**settings), UNTOUCHED)
    assert said == (
        "The ISTN's game collapsed: the image distance rose from 0.02 in epoch 6, which is kept, to 0.26 by epoch 20; "
        + remedy
    )


def test_images_that_never_come_nearer_are_said_to_be_no_nearer():
    config = IstnConfig(image_weight=50.0, gradient_penalty=10.0)
    farther = np.full(20, 0.12)
    said = describe_collapse(log(scores=farther), config, UNTOUCHED)
    assert said == (
        "The ISTN brought images no nearer to the reference's (0.12, 0.1 as they are); halve config.istn.image_weight "
        "(50 now)"
    )
    blind = describe_collapse(log(np.full(20, 0.69), farther), config, UNTOUCHED)
    assert blind.endswith("its discriminator cannot tell them apart: halve config.istn.gradient_penalty (10 now)")
    assert describe_collapse(log(scores=np.full(20, 0.004)), config, 0.003) == ""  # alike from the start
