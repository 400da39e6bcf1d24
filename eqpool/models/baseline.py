"""The networks of the baselines: the encoder and decoder of stage one, and a predictor."""

from typing import NamedTuple

import jax
from flax import linen as nn

from eqpool.config import ModelConfig
from eqpool.models.autoencoder import Decoder, Encoder
from eqpool.models.mlp import MLP
from eqpool.ops.devices import AxisName


class BaselineOutput(NamedTuple):
    """The outputs of a baseline for N inputs.

    Attributes:
      latent: (N, n) float32 on the unit sphere, which serves as the baseline's Phi.
      prediction: (N, outputs) float32 logits, or one number for regression.
      reconstruction: float32 in the shape of the inputs.
    """

    latent: jax.Array
    prediction: jax.Array
    reconstruction: jax.Array


class Baseline(nn.Module):
    """The encoder, decoder and predictor of every baseline of Lokhande et al. 2022.

    Attributes:
      config: sizes of the networks.
      input_shape: shape of one input, (F,) or (x, y, z).
      outputs: number of classes, or 1 for regression.
    """

    config: ModelConfig
    input_shape: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(
        self, inputs: jax.Array, *, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> BaselineOutput:
        latent = Encoder(self.config, name="encoder")(inputs, train=train, mask=mask, axis_name=axis_name)
        return BaselineOutput(
            latent=latent,
            prediction=MLP((self.config.hidden_units,), self.outputs, name="h")(latent),
            reconstruction=Decoder(self.config, self.input_shape, name="decoder")(
                latent, train=train, mask=mask, axis_name=axis_name
            ),
        )
