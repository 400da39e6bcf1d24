"""Phi = tau . b(tau^-1 . l): invariant to the site by training, equivariant by construction (Lokhande et al. 2022,
eq. (4)).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from eqpool.geometry import sphere
from eqpool.models.adversary import Adversary
from eqpool.models.mlp import MLP
from eqpool.ops.arguments import check_shape
from eqpool.ops.numerics import einsum, reverse_gradient, round_straight_through


class StageTwoOutput(NamedTuple):
    """What stage two makes of N latents.

    Attributes:
      covariate_free: (N, n) float32, tau^-1 Phi = b(tau^-1 l).
      phi: (N, n) float32.
      prediction: (N, outputs) float32, h(Phi): logits, or one number for regression.
      reconstruction: (N, n) float32, Psi(Phi), to be compared with l.
      site: (N, sites) float32, the adversary's logits from tau^-1 Phi; its gradient is reversed on the way to b.
        None without an adversary.
    """

    covariate_free: jax.Array
    phi: jax.Array
    prediction: jax.Array
    reconstruction: jax.Array
    site: jax.Array | None


class Invariant(nn.Module):
    """b: tau^-1 l to the covariate-free latent, (N, n) to (N, n) float32.

    With `code_dim` it speaks through a code of so many numbers in [-1, 1], each of `code_levels` evenly spaced values
    (finite scalar quantisation, Mentzer et al. 2023), laid on the sphere by a fixed map. A deterministic, continuous
    latent can match across sites at every width a kernel sees and still tell the site in its finer digits; a code has
    none, and what it tells at all is bounded by code_dim x log2(code_levels) bits.

    Attributes:
      hidden_units: of both hidden layers.
      on_sphere: normalise, so that no scale-free criterion can be met by shrinking; a code always is.
      code_dim: 0 for none.
      code_levels: 0 for a continuous code.
    """

    hidden_units: int
    on_sphere: bool = True
    code_dim: int = 0
    code_levels: int = 0

    @nn.compact
    def __call__(self, turned_back: jax.Array) -> jax.Array:
        dimension = turned_back.shape[-1]
        network = MLP((self.hidden_units, self.hidden_units), self.code_dim or dimension, name="network")
        values = network(turned_back)
        if not self.code_dim:
            return sphere.normalize(values) if self.on_sphere else values
        code = jnp.tanh(values)
        if self.code_levels:
            steps = (self.code_levels - 1) / 2
            code = round_straight_through(code * steps + steps) / steps - 1
        return sphere.from_plane(code, dimension)


class StageTwo(nn.Module):
    """b, h and Psi over frozen latents l (N, n) and rotations tau (N, n, n).

    Attributes:
      outputs: classes, or 1 for regression.
      num_sites: what the adversary tells apart; 0 for no adversary.
      hidden_units: of each network's hidden layer.
      on_sphere, code_dim, code_levels: of b, see `Invariant`.
    """

    outputs: int
    num_sites: int
    hidden_units: int = 64
    on_sphere: bool = True
    code_dim: int = 0
    code_levels: int = 0

    @nn.compact
    def __call__(
        self, latent: jax.Array, tau: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> StageTwoOutput:
        check_shape("latent", latent, ("N", "n"))
        dimension = latent.shape[-1]
        check_shape("tau", tau, (len(latent), dimension, dimension), f" for latent {latent.shape}")
        turned_back = self._without_site(einsum("nij,ni->nj", tau, latent))  # tau^-1 = tau^T, never an inverse
        invariant = Invariant(self.hidden_units, self.on_sphere, self.code_dim, self.code_levels, name="b")
        covariate_free = invariant(turned_back)
        phi = einsum("nij,nj->ni", tau, covariate_free)
        prediction = MLP((self.hidden_units,), self.outputs, name="h")(phi)
        reconstruction = MLP((self.hidden_units,), dimension, name="psi")(phi)
        site = None
        if self.num_sites:
            adversary = Adversary(self.num_sites, name="adversary")
            site = adversary(reverse_gradient(covariate_free), train=train, mask=mask)
        return StageTwoOutput(covariate_free, phi, prediction, reconstruction, site)

    def _without_site(self, turned_back: jax.Array) -> jax.Array:
        """Applies the erasure in the collection "constants" to tau^-1 l (N, n), or the identity if there is none.

        On tau^-1 l, unlike on l, any fixed map leaves Phi equivariant.
        """
        if not self.has_variable("constants", "erasure"):
            return turned_back
        mean, projection = (self.get_variable("constants", "erasure")[name] for name in ("mean", "projection"))
        return mean + einsum("ij,nj->ni", projection, turned_back - mean)
