"""Benchmarks of training steps of the volume networks.

Run it alone and without virtual devices, which slow a CPU down.

Command: JAX_PLATFORMS=cpu python -m pytest benchmarks/bench_encoder.py --benchmark-enable
The best of five runs on 2 cores of an AMD EPYC with jax 0.10.2 took 0.49, 0.41 and 0.55 s, in the order of the list
below.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.harness import timed
from eqpool.models.resnet3d import Decoder3D, ResNet3D

_TEMPLATE_4MM = (50, 59, 48)
_FSL_2MM = (91, 109, 91)
_TRAIN = {"train": True, "mutable": ["batch_stats"]}


def encoder_loss(variables, volume):
    features, updates = ResNet3D().apply(variables, volume, **_TRAIN)
    return jnp.mean(jnp.square(features)), updates


def _autoencoder_loss(variables, volume):
    latent, encoder_updates = ResNet3D().apply(variables["encoder"], volume, **_TRAIN)
    image, decoder_updates = Decoder3D(volume.shape[1:]).apply(variables["decoder"], latent, **_TRAIN)
    return jnp.mean(jnp.square(image - volume)), {"encoder": encoder_updates, "decoder": decoder_updates}


def init_encoder(volume):
    return ResNet3D().init(jax.random.key(0), volume, train=True)


def _init_autoencoder(volume):
    latent = jnp.zeros((volume.shape[0], 64))
    decoder = Decoder3D(volume.shape[1:]).init(jax.random.key(1), latent, train=True)
    return {"encoder": init_encoder(volume), "decoder": decoder}


@pytest.mark.parametrize(
    ("init", "loss", "shape", "batch"),
    [
        (init_encoder, encoder_loss, _FSL_2MM, 4),
        (init_encoder, encoder_loss, _TEMPLATE_4MM, 16),
        (_init_autoencoder, _autoencoder_loss, _TEMPLATE_4MM, 16),
    ],
    ids=["encoder_2mm", "encoder_4mm", "autoencoder_4mm"],
)
def test_training_step(benchmark, init, loss, shape, batch):
    volume = jnp.asarray(np.random.default_rng(0).standard_normal((batch, *shape), np.float32))
    variables = jax.jit(init)(volume)
    optimiser = optax.adam(3e-4)

    @jax.jit
    def step(variables, moments):
        gradients, _ = jax.grad(loss, has_aux=True)(variables, volume)
        updates, moments = optimiser.update(gradients, moments)
        return optax.apply_updates(variables, updates), moments

    state = jax.block_until_ready(step(variables, optimiser.init(variables)))
    timed(benchmark, lambda: step(*state), rounds=5, batch=batch, shape=shape)
    if benchmark.stats:
        benchmark.extra_info["volumes_a_second"] = round(batch / benchmark.stats.stats.min, 1)
