"""The discriminator of real from generated images of the target site (Robinson et al. 2020, Tables 5 and 6)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from eqpool.models.layers import ConvBlock, LogitConv, Norm, check_images


class Discriminator(nn.Module):
    """Convolutions of 3 taps with instance norm that reduce an image to one logit. The loss applies the sigmoid.

    The defaults are those of Table 5 (Morpho-MNIST). Table 6 (brains) has the channels (32, 64, 128, 256, 256). The
    tables are read as follows:

    | row | printed | read as |
    |---|---|---|
    | last, k 3, s 2 | p 1, 4 voxels per axis to 1 | p 0, because p 1 would give 2 voxels |
    | IN | | no scale and no shift, as in the published code |

    At other sizes the last convolution may leave several positions, whose logits are averaged. A grid smaller than its
    kernel is padded with zeros.

    Attributes:
      channels: channels of each layer but the last. The first has stride 1 and no norm, the others halve the size.
      dropout: rate of dropping after the last of these layers, 1 - D.
      norm: "instance" as published, which removes much of an image's own brightness and contrast, or "none".
      dtype: dtype of the computation. Parameters and the result are float32.
    """

    channels: Sequence[int] = (32, 64, 128, 256)
    dropout: float = 0.5
    norm: Norm = "instance"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Computes a logit for each image.

        Args:
          images: (N, *shape, C) float32, with shape (H, W) or (D, H, W).
          train: whether to apply dropout (rng "dropout").

        Returns:
          (N,) float32 logits, positive for real images.

        Raises:
          ValueError: `images` has the wrong rank, or is so small that an instance norm would see a single voxel and
            map it to 0.
        """
        check_images(images)
        least = 2 ** (len(self.channels) - 1) + 1
        if max(images.shape[1:-1]) < least:
            raise ValueError(f"images must have an axis of at least {least} voxels, got shape {images.shape}")
        x = images.astype(self.dtype)
        last = len(self.channels) - 1
        for index, features in enumerate(self.channels):
            block = ConvBlock(
                features,
                stride=2 if index else 1,
                norm=self.norm if index else "none",
                dropout=self.dropout if index == last else 0.0,
                dtype=self.dtype,
                name=f"layer{index}",
            )
            x = block(x, train=train)
        return LogitConv(1, dtype=self.dtype, name="logit")(x)[:, 0]
