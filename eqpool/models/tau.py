"""tau: from the latent on the sphere to SO(n). It sees the image alone, never the covariate."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from eqpool.geometry import so
from eqpool.geometry.planes import invariant_planes, rotations
from eqpool.models.mlp import MLP
from eqpool.ops.arguments import check_shape
from eqpool.ops.numerics import round_straight_through


class Tau(nn.Module):
    """l to tau(l) = cayley(skew(net(l))): (N, n) to (N, n, n) float32 rotations (Lokhande et al. 2022, section 3.1).

    The last layer starts small, so that training begins near the identity, where the Cayley map is best conditioned.
    """

    hidden_units: int = 64

    @nn.compact
    def __call__(self, latent: jax.Array) -> jax.Array:
        check_shape("latent", latent, ("N", "n"))
        dimension = latent.shape[-1]
        angles = MLP((self.hidden_units,), dimension * (dimension - 1) // 2)(latent)
        scale = self.param("scale", nn.initializers.constant(0.1), (), jnp.float32)
        return so.cayley(so.skew(scale * angles))


class CovariateTau(nn.Module):
    """l to tau(l) = expm(-sum_c s_c(l) B_c): (N, n) to (N, n, n) float32 rotations that carry the covariates alone.

    It is the form that the equivariance loss has at its optimum, tau_i = expm(-c_i B) u (docs/method.md, section 3),
    with the common frame u = I, which b can turn as it likes. A free tau has n(n-1)/2 numbers to tell the site by; this
    one has as many as there are covariates.

    Attributes:
      rotation_ranges: one a covariate, C of them, of the generators B_c, as the equivariance loss has them.
      spectrum: of the generators, likewise.
      steps: to which s_c is rounded over the covariate's training range; 0: it is continuous. What a continuous s_c
        tells beside the covariate is in its last digits, which an MMD does not see and a probe does.
    """

    rotation_ranges: tuple[float, ...]
    spectrum: Literal["uniform", "paper"] = "uniform"
    hidden_units: int = 64
    steps: int = 0

    @nn.compact
    def __call__(self, latent: jax.Array) -> jax.Array:
        check_shape("latent", latent, ("N", "n"))
        generators = so.generator(latent.shape[-1], rotation_range=self.rotation_ranges, spectrum=self.spectrum)
        read = MLP((self.hidden_units, self.hidden_units), len(self.rotation_ranges), name="covariate")(latent)
        if self.steps:
            read = round_straight_through(read * self.steps) / self.steps
        return rotations(invariant_planes(generators), -read)
