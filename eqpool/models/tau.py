"""tau, which maps latents on the sphere to SO(n). Its only input is the image's latent, never the covariate."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from eqpool.geometry import so
from eqpool.geometry.planes import invariant_planes, rotations
from eqpool.models.mlp import MLP
from eqpool.ops.arguments import check_shape
from eqpool.ops.custom_rules import round_straight_through


class Tau(nn.Module):
    """The free tau(l) = cayley(skew(net(l))) of Lokhande et al. 2022, section 3.1.

    It maps (N, n) to (N, n, n) float32 rotations. The last layer is initialised with small values, so that training
    starts near the identity, where the Cayley map is best conditioned.
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
    """A tau that carries only the covariates: tau(l) = expm(-sum_c s_c(l) B_c).

    It maps (N, n) to (N, n, n) float32 rotations. This is the form of tau at the optimum of the equivariance loss,
    tau_i = expm(-c_i B) u (docs/method.md, section 3), with the common frame u = I, which b can rotate. The site can be
    encoded in the n(n-1)/2 numbers of a free tau, but only in one number per covariate here.

    Attributes:
      rotation_ranges: rotation ranges of the generators B_c, one for each of C covariates, as in the equivariance loss.
      spectrum: spectrum of the generators, as in the equivariance loss.
      steps: number of steps to which s_c is rounded over the covariate's training range, 0 for a continuous s_c. A
        continuous s_c can encode the site in its last digits, which a probe reads and an MMD does not.
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
