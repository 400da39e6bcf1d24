"""The baselines' networks: the same encoder and decoder, a predictor, and CAI's adversary."""

from typing import NamedTuple

import jax
from flax import linen as nn

from eqpool.config import ModelConfig
from eqpool.models.adversary import Adversary
from eqpool.models.autoencoder import Decoder, Encoder
from eqpool.models.mlp import MLP
from eqpool.ops.numerics import reverse_gradient


class BaselineOutput(NamedTuple):
    """What a baseline makes of N inputs.

    Attributes:
      latent: (N, n) float32 on the unit sphere; a baseline's Phi.
      prediction: (N, outputs) float32, logits, or one number for regression.
      reconstruction: the inputs' shape, float32.
      site: (N, sites) float32, the adversary's logits.
    """

    latent: jax.Array
    prediction: jax.Array
    reconstruction: jax.Array
    site: jax.Array


class Baseline(nn.Module):
    """Encoder, decoder and predictor of every baseline of Lokhande et al. 2022; the adversary learns in CAI only.

    Attributes:
      config: sizes.
      input_shape: one input's shape, (F,) or (x, y, z).
      outputs: classes, or 1 for regression.
      num_sites: what the adversary tells apart.
    """

    config: ModelConfig
    input_shape: tuple[int, ...]
    outputs: int
    num_sites: int

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, mask: jax.Array | None = None) -> BaselineOutput:
        latent = Encoder(self.config, name="encoder")(inputs, train=train, mask=mask)
        return BaselineOutput(
            latent=latent,
            prediction=MLP((self.config.hidden_units,), self.outputs, name="h")(latent),
            reconstruction=Decoder(self.config, self.input_shape, name="decoder")(latent, train=train, mask=mask),
            site=Adversary(self.num_sites, name="adversary")(reverse_gradient(latent), train=train, mask=mask),
        )
