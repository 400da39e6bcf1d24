"""tau: from the latent on the sphere to SO(n). It sees the image alone, never the covariate."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from eqpool.geometry import so
from eqpool.models.mlp import MLP


class Tau(nn.Module):
    """l to tau(l) = cayley(skew(net(l))): (N, n) to (N, n, n) float32 rotations (paper A, section 3.1).

    The last layer starts small, so that training begins near the identity, where the Cayley map is best conditioned.
    """

    hidden_units: int = 64

    @nn.compact
    def __call__(self, latent: jax.Array) -> jax.Array:
        dimension = latent.shape[-1]
        angles = MLP((self.hidden_units,), dimension * (dimension - 1) // 2)(latent)
        scale = self.param("scale", nn.initializers.constant(0.1), (), jnp.float32)
        return so.cayley(so.skew(scale * angles))
