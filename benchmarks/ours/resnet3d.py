"""Our training step of the ADNI-size encoder."""

import jax
import jax.numpy as jnp

from benchmarks import inputs
from benchmarks.ours import common
from eqpool.models.resnet3d import ResNet3D


def step(shape: tuple[int, int, int], batch: int) -> inputs.Work:
    """Returns the work of a step of Adam on the mean square of the encoder's features, in float32."""
    model = ResNet3D()
    volume = jnp.asarray(inputs.normal(batch, *shape))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), volume, train=True))

    def loss(variables, volume, key):
        features, updated = model.apply(variables, volume, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.square(features)), dict(updated)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)
    return common.training(loss, common.with_initial_weights(zeros), volume, 3e-4)
