"""Stage one's networks: E onto the sphere, tau, D, and the published auxiliary head on the target."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from eqpool.config import ModelConfig
from eqpool.geometry import sphere
from eqpool.models.mlp import MLP, Head
from eqpool.models.resnet3d import Decoder3D, ResNet3D
from eqpool.models.tau import Tau


class StageOneOutput(NamedTuple):
    """What stage one makes of N inputs.

    Attributes:
      latent: (N, n) float32 on the unit sphere, l.
      tau: (N, n, n) float32 in SO(n).
      reconstruction: the inputs' shape, float32, D(l).
      prediction: (N, outputs) float32, the auxiliary head's logits, or one number for regression.
    """

    latent: jax.Array
    tau: jax.Array
    reconstruction: jax.Array
    prediction: jax.Array


class StageOne(nn.Module):
    """E, tau and D (paper A, Algorithm 1, stage one) for features (N, F) or volumes (N, x, y, z).

    Attributes:
      config: encoder kind and sizes.
      input_shape: one input's shape, (F,) or (x, y, z).
      outputs: classes, or 1 for regression.
    """

    config: ModelConfig
    input_shape: tuple[int, ...]
    outputs: int

    def setup(self) -> None:
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        if config.encoder == "resnet3d":
            self.trunk = ResNet3D(config.channels, config.blocks, dtype=dtype, remat=config.remat)
            self.to_latent = nn.Dense(config.latent_dim) if config.channels[-1] != config.latent_dim else None
            self.decoder = Decoder3D(self.input_shape, config.decoder_channels, dtype=dtype)
        else:
            self.trunk = MLP((config.hidden_units,), config.latent_dim, dtype=dtype)
            self.decoder = MLP((config.hidden_units,), self.input_shape[0], dtype=dtype)
        self.tau = Tau(2 * config.hidden_units)
        self.head = Head(self.outputs, 2 * config.hidden_units, config.dropout)

    def encode(self, inputs: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """l = E(X) / |E(X)|, (N, n) float32."""
        if self.config.encoder == "resnet3d":
            latent = self.trunk(inputs, train=train, mask=mask).astype(jnp.float32)
            latent = latent if self.to_latent is None else self.to_latent(latent)
        else:
            latent = self.trunk(inputs)
        if self.config.centre_latent:
            latent = latent - latent.mean(axis=-1, keepdims=True)
        return sphere.normalize(latent)

    def decode(self, latent: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """D(l): (N, n) to the inputs' shape, float32."""
        if self.config.encoder == "resnet3d":
            return self.decoder(latent, train=train, mask=mask).astype(jnp.float32)
        return self.decoder(latent)

    def __call__(self, inputs: jax.Array, *, train: bool, mask: jax.Array | None = None) -> StageOneOutput:
        latent = self.encode(inputs, train=train, mask=mask)
        return StageOneOutput(
            latent=latent,
            tau=self.tau(latent),
            reconstruction=self.decode(latent, train=train, mask=mask),
            prediction=self.head(latent, train=train, mask=mask),
        )
