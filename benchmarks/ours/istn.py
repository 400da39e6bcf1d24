"""Our training step of the ISTN and its discriminator (Robinson et al. 2020, eqs. (1) and (2), Table 6)."""

from typing import Literal

import jax
import jax.numpy as jnp

from benchmarks import inputs
from benchmarks.inputs import BOTTLENECK, DECODER, ENCODER, JUDGE, SPACING, STN_WIDTHS
from benchmarks.ours import common
from eqpool.losses.adversarial import adversarial_loss, discriminator_loss, image_distance
from eqpool.models.discriminator import Discriminator
from eqpool.models.istn import ISTN


def step(kind: Literal["affine", "bspline"], side: int, batch: int, dropout: float = 0.5) -> inputs.Work:
    """Returns the work of a training step on `batch` images of each site, with `side`^3 voxels.

    S2T is a constant for the discriminator, and the discriminator's weights are constants for the ISTN.
    """
    transformer = ISTN(
        shape=kind, encoder=ENCODER, bottleneck=BOTTLENECK, decoder=DECODER, dropout=dropout,
        widths=STN_WIDTHS, spacing=SPACING,
    )  # fmt: skip
    judge = Discriminator(JUDGE, dropout=dropout)
    source, reference = (jnp.tanh(inputs.normal(batch, side, side, side, 1, seed=seed)) for seed in (0, 1))

    def init():
        own = transformer.init(jax.random.key(0), source, train=False)
        return {
            "params": {"istn": own["params"], "judge": judge.init(jax.random.key(0), source, train=False)["params"]},
            "batch_stats": own["batch_stats"],
        }

    def loss(variables, batch_of_both, key):
        source, reference = batch_of_both
        params, keys = variables["params"], jax.random.split(key, 5)
        stats = variables["batch_stats"]

        def transform(images, stats, key):
            output, updated = transformer.apply(
                {"params": params["istn"], "batch_stats": stats},
                images, train=True, rngs={"dropout": key}, mutable=["batch_stats"],
            )  # fmt: skip
            return output.image, updated["batch_stats"]

        def judged(weights, images, key):
            return judge.apply({"params": weights}, images, train=True, rngs={"dropout": key})

        zeros, ones = jnp.zeros(batch), jnp.ones(batch)
        s2t, stats = transform(source, stats, keys[0])
        t2t, stats = transform(reference, stats, keys[1])
        fooled = adversarial_loss(judged(jax.lax.stop_gradient(params["judge"]), s2t, keys[2]), ones)
        generated = judged(params["judge"], jax.lax.stop_gradient(s2t), keys[3])
        caught = discriminator_loss(generated, judged(params["judge"], reference, keys[4]), zeros, ones)
        return fooled + caught + 25 * image_distance(t2t, reference), {"batch_stats": stats}

    abstract = jax.eval_shape(init)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
    return common.training(loss, common.with_initial_weights(variables), (source, reference), 1e-4)
