"""E onto the sphere and D back, for feature rows and for volumes, and stage one's networks around them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from eqpool.config import ModelConfig, rotation_ranges
from eqpool.geometry import sphere
from eqpool.models.mlp import MLP, Head
from eqpool.models.resnet3d import Decoder3D, ResNet3D
from eqpool.models.tau import CovariateTau, Tau


class Encoder(nn.Module):
    """E: inputs (N, F) or (N, x, y, z) to l = E(X) / |E(X)|, (N, n) float32 on the unit sphere.

    Feature rows go through a fully connected network, volumes through the 3D ResNet.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        if inputs.ndim == 4:
            trunk = ResNet3D(config.channels, config.blocks, dtype=dtype, remat=config.remat, name="trunk")
            latent = trunk(inputs, train=train, mask=mask).astype(jnp.float32)
            if config.channels[-1] != config.latent_dim:
                latent = nn.Dense(config.latent_dim)(latent)
        else:
            latent = MLP((config.hidden_units,), config.latent_dim, dtype=dtype, name="trunk")(inputs)
        if config.centre_latent:
            latent = latent - latent.mean(axis=-1, keepdims=True)
        return sphere.normalize(latent)


class Decoder(nn.Module):
    """D: latents (N, n) back to inputs (N, *input_shape), float32.

    Volumes are the network's output plus a constant, the collection "constants": zeros at first, for whoever trains it
    to set to the mean training volume. A few hundred steps do not teach a network from nothing what all brains share.
    """

    config: ModelConfig
    input_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, latent: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        if len(self.input_shape) == 3:
            x, y, z = self.input_shape
            volumes = Decoder3D((x, y, z), config.decoder_channels, dtype=dtype, name="volumes")
            mean = self.variable("constants", "mean", jnp.zeros, self.input_shape, jnp.float32)
            return volumes(latent, train=train, mask=mask).astype(jnp.float32) + mean.value
        return MLP((config.hidden_units,), self.input_shape[0], dtype=dtype, name="features")(latent)


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
    """E, tau and D (Lokhande et al. 2022, Algorithm 1), and the published auxiliary head on the target.

    Attributes:
      config: sizes.
      input_shape: one input's shape, (F,) or (x, y, z).
      outputs: classes, or 1 for regression.
      num_covariates: that a tau of the kind "covariate" carries.
    """

    config: ModelConfig
    input_shape: tuple[int, ...]
    outputs: int
    num_covariates: int = 1

    def setup(self) -> None:
        """Builds the four networks."""
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config, self.input_shape)
        self.tau = make_tau(self.config, self.num_covariates)
        self.head = Head(self.outputs, self.config.hidden_units, self.config.dropout)

    def decode(self, latent: jax.Array) -> jax.Array:
        """D(l) in inference mode: (N, n) to the inputs' shape, float32."""
        return self.decoder(latent, train=False)

    def __call__(self, inputs: jax.Array, *, train: bool, mask: jax.Array | None = None) -> StageOneOutput:
        """Encodes (N, *input_shape) float32; rows with `mask` (N,) 0 do not count in batch norm."""
        latent = self.encoder(inputs, train=train, mask=mask)
        return StageOneOutput(
            latent=latent,
            tau=self.tau(latent),
            reconstruction=self.decoder(latent, train=train, mask=mask),
            prediction=self.head(latent, train=train, mask=mask),
        )


def make_tau(config: ModelConfig, num_covariates: int) -> nn.Module:
    """The network l to tau(l) that `config.tau` names."""
    if config.tau == "covariate":
        ranges = rotation_ranges(config, num_covariates)
        return CovariateTau(ranges, config.spectrum, config.hidden_units, config.tau_steps)
    return Tau(config.hidden_units)
