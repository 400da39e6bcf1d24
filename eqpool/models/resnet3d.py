"""The 3D residual encoder of Lokhande et al. 2022 (appendix A.6, listing 1), and a decoder that is fast on a CPU."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from eqpool.models.batch_norm import batch_norm
from eqpool.models.conv import Conv
from eqpool.models.resolution import UpsampleConv, depth_to_space, max_pool
from eqpool.ops.arguments import check_shape
from eqpool.ops.devices import AxisName, hashable

# The settings of the published code. Momentum m in PyTorch is 1 - m in Flax.
_NORM_EPSILON = 1e-8
_NORM_MOMENTUM = 0.9


class ResNet3D(nn.Module):
    """A pre-activation residual network from volumes to features.

    It starts with a 7^3 convolution of stride 2 and an unpadded max pool of window 3 and stride 2. Stages of residual
    blocks follow. A block is twice norm, swish and convolution, with widths in -> in -> out. From stage two on, the
    first convolution of the first block has stride 2, and so has a 3^3 convolution on its shortcut. The last operation
    is a global average. With the default widths the network has 517 936 parameters.

    Attributes:
      channels: width of each stage. The first is also that of the stem.
      blocks: number of blocks in each stage.
      dtype: dtype of the computation. Parameters, batch statistics and the result are float32.
      remat: whether to recompute each block in the backward pass instead of keeping its intermediate values.
    """

    channels: Sequence[int] = (16, 16, 32, 64)
    blocks: Sequence[int] = (2, 2, 2, 2)
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, volume: jax.Array, *, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> jax.Array:
        """Encodes a batch.

        Args:
          volume: (N, D, H, W) floating array.
          train: whether to normalise by the batch and update the running statistics (collection "batch_stats").
          mask: (N,) bool, False where a row is padding. Such rows do not enter the batch statistics.
          axis_name: mapped axis or axes over whose devices the batch is spread, see `batch_norm`.

        Returns:
          (N, channels[-1]) float32.

        Raises:
          ValueError: `volume` or `mask` has the wrong shape, a spatial axis is below
            `minimum_size(len(channels))`, or `channels` and `blocks` differ in length.
        """
        self._check(volume, mask)
        x = volume[..., None].astype(self.dtype)
        x = Conv(self.channels[0], 7, 2, 3, dtype=self.dtype, name="stem")(x)
        x = max_pool(x, window=3, stride=2)
        block_class = nn.remat(ResidualBlock, static_argnums=(2, 4)) if self.remat else ResidualBlock
        for stage, (features, count) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for index in range(count):
                halve = stage > 0 and index == 0
                # Explicit names, because remat must not change the paths of the parameters.
                block = block_class(features, halve, self.dtype, name=f"stage{stage}_block{index}")
                x = block(x, train, mask, hashable(axis_name))
        return jnp.mean(x, axis=(1, 2, 3), dtype=jnp.float32)

    def _check(self, volume, mask):
        if len(self.channels) != len(self.blocks) or not self.channels:
            raise ValueError(f"channels {self.channels} and blocks {self.blocks} must have one entry a stage")
        check_shape("volume", volume, ("N", "D", "H", "W"))
        least = minimum_size(len(self.channels))
        if min(volume.shape[1:]) < least:
            raise ValueError(f"volume must have at least {least} voxels an axis, got shape {volume.shape}")
        _check_mask(mask, volume.shape[0])


class ResidualBlock(nn.Module):
    """A residual block x + f(x) with f = norm, swish, 3^3 convolution, norm, swish, 3^3 convolution.

    The widths are C -> C -> features. With `halve` the first convolution has stride 2. If the grid or the width
    changes, x passes a 3^3 convolution of the same stride, with a bias.
    """

    features: int
    halve: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> jax.Array:
        """Maps (N, D, H, W, C) to (N, D', H', W', features). Other arguments are those of `ResNet3D`."""
        stride = 2 if self.halve else 1
        branch = NormSwish(self.dtype, name="norm1")(x, train, mask, axis_name)
        branch = Conv(x.shape[-1], 3, stride, 1, use_bias=False, dtype=self.dtype, name="conv1")(branch)
        branch = NormSwish(self.dtype, name="norm2")(branch, train, mask, axis_name)
        branch = Conv(self.features, 3, 1, 1, use_bias=False, dtype=self.dtype, name="conv2")(branch)
        if self.halve or x.shape[-1] != self.features:
            x = Conv(self.features, 3, stride, 1, dtype=self.dtype, name="shortcut")(x)
        return x + branch


class NormSwish(nn.Module):
    """Batch norm over batch and space, then swish. Rows with False in `mask` do not enter the statistics."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> jax.Array:
        """Normalises (N, ..., C), which keeps its shape. Other arguments are those of `ResNet3D`."""
        normalised = batch_norm(
            x,
            train=train,
            mask=mask,
            axis_name=axis_name,
            momentum=_NORM_MOMENTUM,
            epsilon=_NORM_EPSILON,
            dtype=self.dtype,
            # E[x^2] - E[x]^2 loses digits by cancellation, for which an epsilon of 1e-8 is too small.
            use_fast_variance=False,
            name="norm",
        )
        return nn.swish(normalised)


class Decoder3D(nn.Module):
    """A decoder from latents to volumes: a dense layer onto a coarse grid, which is doubled four times.

    Each doubling but the last is a nearest-neighbour upsampling with a 3^3 convolution, norm and swish. The last is a
    3^3 convolution at half resolution whose eight outputs are the voxels of a 2 x 2 x 2 cube. After each doubling the
    grid is cropped to ceil(shape / 2^k), so that the final crop discards little.

    Attributes:
      shape: shape (D, H, W) of the volumes.
      channels: width of the coarse grid and of each grid after it. The coarse grid has size
        ceil(shape / 2^len(channels)).
      dtype: dtype of the computation. Parameters, batch statistics and the result are float32.
    """

    shape: tuple[int, int, int]
    channels: Sequence[int] = (64, 32, 16, 8)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, latent: jax.Array, *, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> jax.Array:
        """Decodes a batch.

        Args:
          latent: (N, n) floating array.
          train: as in `ResNet3D`.
          mask, axis_name: as in `ResNet3D`.

        Returns:
          (N, *shape) float32, unbounded.

        Raises:
          ValueError: `latent`, `mask` or `shape` has the wrong shape.
        """
        self._check(latent, mask)
        x = self._coarse_grid(latent)
        x = NormSwish(self.dtype, name="coarse_norm")(x, train, mask, axis_name)
        for stage, features in enumerate(self.channels[1:]):
            x = UpsampleConv(features, dtype=self.dtype, name=f"stage{stage}_conv")(x)
            x = _crop(x, self._grid(len(self.channels) - 1 - stage))
            x = NormSwish(self.dtype, name=f"stage{stage}_norm")(x, train, mask, axis_name)
        x = depth_to_space(Conv(8, 3, 1, 1, dtype=self.dtype, name="voxels")(x))
        return _crop(x, self.shape)[..., 0].astype(jnp.float32)

    def _coarse_grid(self, latent):
        grid = self._grid(len(self.channels))
        x = nn.Dense(math.prod(grid) * self.channels[0], dtype=self.dtype, name="coarse")(latent)
        return x.reshape(-1, *grid, self.channels[0])

    def _grid(self, halvings: int) -> tuple[int, ...]:
        return tuple(-(-size // 2**halvings) for size in self.shape)

    def _check(self, latent, mask):
        check_shape("latent", latent, ("N", "n"))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be three positive sizes, got {self.shape}")
        _check_mask(mask, latent.shape[0])


def minimum_size(stages: int) -> int:
    """Returns the fewest voxels per axis with which the last stage of a `ResNet3D` can still halve the grid.

    The number is 21 for the default four stages and 5 for one.
    """
    pooled = 2 ** (stages - 2) + 1 if stages > 1 else 1
    return 4 * pooled + 1


def _crop(x: jax.Array, grid: Sequence[int]) -> jax.Array:
    depth, height, width = grid
    return x[:, :depth, :height, :width]


def _check_mask(mask: jax.Array | None, rows: int) -> None:
    if mask is not None:
        check_shape("mask", mask, (rows,), ", one entry for each row")
