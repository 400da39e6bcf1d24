"""A training step of the ADNI-size encoder, ours."""

import jax
import jax.numpy as jnp

from benchmarks import inputs
from benchmarks.ours import common
from eqpool.models.resnet3d import ResNet3D


def step(shape: tuple[int, int, int], batch: int) -> inputs.Work:
    """Encoder, mean square of its features, Adam; float32."""
    model = ResNet3D()
    volume = jnp.asarray(inputs.normal(batch, *shape))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), volume, train=True))

    def loss(variables, volume, key):
        features, updated = model.apply(variables, volume, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.square(features)), dict(updated)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)
    return common.training(loss, common.with_initial_weights(zeros), volume, 3e-4)
