"""The encoder E onto the sphere, the decoder D, and the networks of stage one, for feature rows and for volumes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from eqpool.config import ModelConfig, rotation_ranges
from eqpool.geometry import sphere
from eqpool.models.mlp import MLP, Head
from eqpool.models.resnet3d import Decoder3D, ResNet3D
from eqpool.models.tau import CovariateTau, Tau
from eqpool.ops.devices import AxisName


class Encoder(nn.Module):
    """The encoder E, which maps inputs to latents l = E(X) / |E(X)| on the unit sphere.

    It maps (N, F) or (N, x, y, z) to (N, n) float32. Feature rows pass a fully connected network and volumes the 3D
    ResNet.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self, inputs: jax.Array, *, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> jax.Array:
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        if inputs.ndim == 4:
            trunk = ResNet3D(config.channels, config.blocks, dtype=dtype, remat=config.remat, name="trunk")
            latent = trunk(inputs, train=train, mask=mask, axis_name=axis_name).astype(jnp.float32)
            if config.channels[-1] != config.latent_dim:
                latent = nn.Dense(config.latent_dim)(latent)
        else:
            latent = MLP((config.hidden_units,), config.latent_dim, dtype=dtype, name="trunk")(inputs)
        if config.centre_latent:
            latent = latent - latent.mean(axis=-1, keepdims=True)
        return sphere.normalize(latent)


class Decoder(nn.Module):
    """The decoder D, which maps latents (N, n) to inputs (N, *input_shape) float32.

    Volumes are the network's output plus a constant in the collection "constants". The constant is initialised with
    zeros, and the training code sets it to the mean training volume. A few hundred steps are too few for a network to
    learn the common anatomy of all brains.
    """

    config: ModelConfig
    input_shape: tuple[int, ...]

    @nn.compact
    def __call__(
        self, latent: jax.Array, *, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> jax.Array:
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        if len(self.input_shape) == 3:
            x, y, z = self.input_shape
            volumes = Decoder3D((x, y, z), config.decoder_channels, dtype=dtype, name="volumes")
            mean = self.variable("constants", "mean", jnp.zeros, self.input_shape, jnp.float32)
            return volumes(latent, train=train, mask=mask, axis_name=axis_name).astype(jnp.float32) + mean.value
        return MLP((config.hidden_units,), self.input_shape[0], dtype=dtype, name="features")(latent)


class StageOneOutput(NamedTuple):
    """The outputs of stage one for N inputs.

    Attributes:
      latent: l, (N, n) float32 on the unit sphere.
      tau: (N, n, n) float32 in SO(n).
      reconstruction: D(l), float32 in the shape of the inputs.
      prediction: (N, outputs) float32 logits of the auxiliary head, or one number for regression.
    """

    latent: jax.Array
    tau: jax.Array
    reconstruction: jax.Array
    prediction: jax.Array


class StageOne(nn.Module):
    """The networks E, tau and D (Lokhande et al. 2022, Algorithm 1) with the published auxiliary head on the target.

    Attributes:
      config: sizes of the networks.
      input_shape: shape of one input, (F,) or (x, y, z).
      outputs: number of classes, or 1 for regression.
      num_covariates: number of covariates that a tau of the kind "covariate" carries.
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
        """Computes D(l) in inference mode, from (N, n) to float32 in the shape of the inputs."""
        return self.decoder(latent, train=False)

    def __call__(
        self, inputs: jax.Array, *, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> StageOneOutput:
        """Encodes (N, *input_shape) float32. Rows with 0 in `mask` (N,) do not count in batch norm."""
        latent = self.encoder(inputs, train=train, mask=mask, axis_name=axis_name)
        return StageOneOutput(
            latent=latent,
            tau=self.tau(latent),
            reconstruction=self.decoder(latent, train=train, mask=mask, axis_name=axis_name),
            prediction=self.head(latent, train=train, mask=mask, axis_name=axis_name),
        )


def make_tau(config: ModelConfig, num_covariates: int) -> nn.Module:
    """Makes the network from l to tau(l) that `config.tau` names."""
    if config.tau == "covariate":
        ranges = rotation_ranges(config, num_covariates)
        return CovariateTau(ranges, config.spectrum, config.hidden_units, config.tau_steps)
    return Tau(config.hidden_units)
