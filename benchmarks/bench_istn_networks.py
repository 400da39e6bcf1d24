"""Benchmarks of the networks of Robinson et al. 2020 at the paper's brain size (Table 6): 64^3, batch 2.

Run it alone and without virtual devices.

Command: JAX_PLATFORMS=cpu python -m pytest benchmarks/bench_istn_networks.py --benchmark-enable
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.harness import timed
from eqpool.losses.adversarial import adversarial_loss, discriminator_loss, image_distance
from eqpool.models.discriminator import Discriminator
from eqpool.models.istn import ISTN
from eqpool.models.task import make_task_model

_SHAPE, _BATCH, _IMAGE_WEIGHT = (64, 64, 64), 2, 50.0
_TABLE_6 = {"encoder": (8, 16, 32, 64), "bottleneck": (64, 64), "decoder": (32, 16, 8), "dropout": 0.5}
_DISCRIMINATOR = Discriminator((32, 64, 128, 256, 256))
_TRANSFORMERS = {
    "itn": ISTN(shape="none", **_TABLE_6),
    "affine": ISTN(shape="affine", **_TABLE_6),
    "bspline": ISTN(shape="bspline", **_TABLE_6),
}


def images(seed):
    return jnp.tanh(jnp.asarray(np.random.default_rng(seed).standard_normal((_BATCH, *_SHAPE, 1), np.float32)))


def _initialise(transformer):
    def both(key, x):
        return {"istn": transformer.init(key, x, train=False), "judge": _DISCRIMINATOR.init(key, x, train=False)}

    return jax.jit(both)(jax.random.key(0), images(0))


def _apply_istn(transformer, variables, x, key):
    return transformer.apply(variables["istn"], x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0].image


def judge(variables, x, key):
    return _DISCRIMINATOR.apply(variables["judge"], x, train=True, rngs={"dropout": key})


def _through_both(transformer):
    """Returns a loss for one forward and backward pass through ISTN and discriminator, with the gradients of both."""

    def loss(variables, source, reference, key):
        return jnp.mean(jnp.square(judge(variables, _apply_istn(transformer, variables, source, key), key) - 1))

    return loss


def _training_loss(transformer):
    """Returns the sum of eqs. (1) and (2).

    S2T is a constant for the discriminator, and the discriminator's weights are constants for the ISTN.
    """

    def loss(variables, source, reference, key):
        keys, labels = jax.random.split(key, 5), (jnp.zeros(_BATCH), jnp.ones(_BATCH))
        s2t = _apply_istn(transformer, variables, source, keys[0])
        t2t = _apply_istn(transformer, variables, reference, keys[1])
        held = jax.lax.stop_gradient(variables)
        fooled = adversarial_loss(judge(held, s2t, keys[2]), labels[1])
        generated = judge(variables, jax.lax.stop_gradient(s2t), keys[3])
        caught = discriminator_loss(generated, judge(variables, reference, keys[4]), *labels)
        return fooled + caught + _IMAGE_WEIGHT / 2 * image_distance(t2t, reference)

    return loss


def _training_step(loss):
    optimiser = optax.adam(1e-4)

    @jax.jit
    def step(variables, moments, key):
        gradients = jax.grad(loss)(variables, images(1), images(2), key)
        updates, moments = optimiser.update(gradients, moments)
        return optax.apply_updates(variables, updates), moments

    return step, optimiser


def measure(benchmark, step, *state):
    timed(benchmark, lambda: step(*state, jax.random.key(1)), rounds=5, batch=_BATCH, shape=_SHAPE)


@pytest.mark.parametrize("shape", _TRANSFORMERS)
def test_forward_and_backward(benchmark, shape):
    transformer = _TRANSFORMERS[shape]
    loss = _through_both(transformer)
    gradients = jax.jit(lambda variables, key: jax.grad(loss)(variables, images(1), images(2), key))
    measure(benchmark, gradients, _initialise(transformer))


@pytest.mark.parametrize("shape", _TRANSFORMERS)
def test_training_step(benchmark, shape):
    transformer = _TRANSFORMERS[shape]
    step, optimiser = _training_step(_training_loss(transformer))
    variables = _initialise(transformer)
    measure(benchmark, step, variables, optimiser.init(variables))


@pytest.mark.parametrize(("name", "classes"), [("sex_classifier", 2), ("age_regressor", 0)])
def test_task_model(benchmark, name, classes):
    model = make_task_model(name, classes)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(images(0))

    @jax.jit
    def gradients(variables, key):
        def loss(variables):
            out = model.apply(variables, images(1), train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0]
            return jnp.mean(jnp.square(out))

        return jax.grad(loss)(variables)

    measure(benchmark, gradients, variables)
