"""Phi = tau . b(tau^-1 . l), invariant to the site by training and equivariant by construction.

See Lokhande et al. 2022, eq. (4).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from eqpool.geometry import so, sphere
from eqpool.geometry.stretch import stretch_rotations
from eqpool.models.adversary import Adversary
from eqpool.models.mlp import MLP
from eqpool.ops.arguments import check_shape
from eqpool.ops.custom_rules import reverse_gradient, round_straight_through
from eqpool.ops.devices import AxisName
from eqpool.ops.numerics import einsum


class StageTwoOutput(NamedTuple):
    """The outputs of stage two for N latents.

    Attributes:
      covariate_free: tau^-1 Phi = b(tau^-1 l), (N, n) float32.
      phi: Phi, (N, n) float32.
      prediction: h(Phi), (N, outputs) float32 logits, or one number for regression.
      reconstruction: Psi(Phi), (N, n) float32, to be compared with l.
      site: (N, sites) float32 logits of the adversary from tau^-1 Phi, with its gradient to b reversed. None in
        inference and without an adversary.
      tau: the rotations that were used, (N, n, n) float32, stretched if the stage stretches them.
    """

    covariate_free: jax.Array
    phi: jax.Array
    prediction: jax.Array
    reconstruction: jax.Array
    site: jax.Array | None
    tau: jax.Array


class Invariant(nn.Module):
    """The network b, which maps tau^-1 l, (N, n), to the covariate-free latent, (N, n) float32.

    With `code_dim` its output is a code of that many numbers in [-1, 1]. Each takes one of `code_levels` evenly spaced
    values (finite scalar quantisation, Mentzer et al. 2023), and a fixed map takes the code to the sphere. The sites'
    distributions of a deterministic, continuous latent can match at every width that a kernel resolves, while the site
    is predictable from finer digits. A code has no finer digits. Its information is at most
    code_dim x log2(code_levels) bits.

    Attributes:
      hidden_units: units of both hidden layers.
      on_sphere: whether to normalise the output, so that a smaller latent does not lower the loss. A code is always
        normalised.
      code_dim: number of values of the code, 0 for none.
      code_levels: number of levels of each value, 0 for a continuous code.
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
    """The networks b, h and Psi on frozen latents l (N, n) and rotations tau (N, n, n).

    Attributes:
      outputs: number of classes, or 1 for regression.
      num_sites: number of sites that the adversary predicts, 0 for no adversary.
      hidden_units: units of each network's hidden layers.
      on_sphere, code_dim, code_levels: settings of b, see `Invariant`.
      rotation_ranges: rotation ranges of the covariates' generators, along which tau is stretched. Their spectrum is
        "uniform".
    """

    outputs: int
    num_sites: int
    hidden_units: int = 64
    on_sphere: bool = True
    code_dim: int = 0
    code_levels: int = 0
    rotation_ranges: tuple[float, ...] = ()

    @nn.compact
    def __call__(
        self,
        latent: jax.Array,
        tau: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
        axis_name: AxisName = None,
        known_to_adversary: jax.Array | None = None,
    ) -> StageTwoOutput:
        """Pools latents.

        Args:
          latent: l, (N, n).
          tau: (N, n, n).
          train: whether the adversary's batch norm uses the batch.
          mask: (N,), rows with 0 do not count in it.
          axis_name: mapped axis or axes over whose devices the batch is spread, for the same batch norm.
          known_to_adversary: (N, G), what the adversary knows beside the latent, such as covariates and class. The
            encoder gains nothing from removing what predicts the site only through these.
        """
        check_shape("latent", latent, ("N", "n"))
        dimension = latent.shape[-1]
        check_shape("tau", tau, (len(latent), dimension, dimension), f" for latent {latent.shape}")
        tau = self._stretched(tau)
        turned_back = self._without_site(einsum("nij,ni->nj", tau, latent))  # tau^-1 = tau^T, so no inverse is needed
        invariant = Invariant(self.hidden_units, self.on_sphere, self.code_dim, self.code_levels, name="b")
        covariate_free = invariant(turned_back)
        phi = einsum("nij,nj->ni", tau, covariate_free)
        prediction = MLP((self.hidden_units,), self.outputs, name="h")(phi)
        reconstruction = MLP((self.hidden_units,), dimension, name="psi")(phi)
        site = None
        if self.num_sites and (train or self.is_initializing()):  # new scans lack what it knows
            adversary = Adversary(self.num_sites, name="adversary")
            seen = reverse_gradient(covariate_free)
            if known_to_adversary is not None:
                seen = jnp.concatenate([seen, known_to_adversary], axis=1)
            site = adversary(seen, train=train, mask=mask, axis_name=axis_name)
        return StageTwoOutput(covariate_free, phi, prediction, reconstruction, site, tau)

    def _stretched(self, tau: jax.Array) -> jax.Array:
        """Stretches tau by the factors in the collection "constants", or returns it unchanged if there are none."""
        if not self.has_variable("constants", "stretch"):
            return tau
        stretch: dict[str, jax.Array] = self.get_variable("constants", "stretch")
        generators = so.generator(tau.shape[-1], rotation_range=self.rotation_ranges)
        return stretch_rotations(tau, stretch["frame"], stretch["factor"], generator=generators)

    def _without_site(self, turned_back: jax.Array) -> jax.Array:
        """Applies the erasure in the collection "constants" to tau^-1 l (N, n), or the identity if there is none.

        On tau^-1 l, unlike on l, any fixed map leaves Phi equivariant.
        """
        if not self.has_variable("constants", "erasure"):
            return turned_back
        erasure: dict[str, jax.Array] = self.get_variable("constants", "erasure")
        mean, projection = erasure["mean"], erasure["projection"]
        return mean + einsum("ij,nj->ni", projection, turned_back - mean)
