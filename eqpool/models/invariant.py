"""Phi = tau . b(tau^-1 . l): invariant to the site by training, equivariant by construction (paper A, eq. 4)."""

from typing import NamedTuple

import jax
from flax import linen as nn

from eqpool.geometry import sphere
from eqpool.models.mlp import MLP
from eqpool.models.probe import Adversary
from eqpool.numerics import einsum, reverse_gradient


class StageTwoOutput(NamedTuple):
    """What stage two makes of N latents.

    Attributes:
      covariate_free: (N, n) float32, tau^-1 Phi = b(tau^-1 l).
      phi: (N, n) float32.
      prediction: (N, outputs) float32, h(Phi): logits, or one number for regression.
      reconstruction: (N, n) float32, Psi(Phi), to be compared with l.
      site: (N, sites) float32, the adversary's logits from tau^-1 Phi; its gradient is reversed on the way to b.
    """

    covariate_free: jax.Array
    phi: jax.Array
    prediction: jax.Array
    reconstruction: jax.Array
    site: jax.Array


class StageTwo(nn.Module):
    """b, h and Psi over frozen latents l (N, n) and rotations tau (N, n, n).

    Attributes:
      outputs: classes, or 1 for regression.
      num_sites: what the adversary tells apart.
      hidden_units: of each network's hidden layer.
      on_sphere: normalise b, so that no scale-free criterion can be met by shrinking Phi.
    """

    outputs: int
    num_sites: int
    hidden_units: int = 64
    on_sphere: bool = True

    @nn.compact
    def __call__(
        self, latent: jax.Array, tau: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> StageTwoOutput:
        dimension = latent.shape[-1]
        turned_back = einsum("nij,ni->nj", tau, latent)  # tau^-1 = tau^T: a product, never an inverse
        covariate_free = MLP((self.hidden_units, self.hidden_units), dimension, name="b")(turned_back)
        if self.on_sphere:
            covariate_free = sphere.normalize(covariate_free)
        phi = einsum("nij,nj->ni", tau, covariate_free)
        prediction = MLP((self.hidden_units,), self.outputs, name="h")(phi)
        reconstruction = MLP((self.hidden_units,), dimension, name="psi")(phi)
        adversary = Adversary(self.num_sites, name="adversary")
        site = adversary(reverse_gradient(covariate_free), train=train, mask=mask)
        return StageTwoOutput(covariate_free, phi, prediction, reconstruction, site)
