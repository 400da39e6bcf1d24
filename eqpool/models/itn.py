"""The image transformer network (ITN), which changes the appearance of voxels.

See Robinson et al. 2020, section 2, Tables 5 and 6.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from eqpool.models.conv import Conv, lecun_fan_in
from eqpool.models.layers import ConvBlock, UpBlock, with_condition
from eqpool.ops.devices import AxisName


class ITN(nn.Module):
    """A U-Net with additive skip connections, from images in [-1, 1] to images of the same shape in [-1, 1].

    The defaults are those of Table 5 (Morpho-MNIST). Table 6 (brains) has encoder (8, 16, 32, 64), bottleneck (64, 64),
    decoder (32, 16, 8) and dropout 0.5. The tables are read as follows:

    | row | printed | read as |
    |---|---|---|
    | last "up", to 1 channel | upsampling, but input and output have one size | a convolution without upsampling |
    | skips | "residual skip connections", inputs as wide as the layer before | added after each decoder layer |
    | D 0.5, Table 6 | keep-rate | dropout of each decoder layer's output, before the skip is added |

    Attributes:
      encoder: channels of each encoder layer. The first has stride 1, the others halve the size.
      bottleneck: channels of each layer at the lowest resolution.
      decoder: channels of each layer that doubles the size, as many as layers that halve it.
      dropout: rate of dropping in the decoder, 1 - D.
      residual: False is the published form tanh(z), with z the last convolution. True learns a change of the image,
        (1 - |tanh z|) x + tanh z, a step from x towards 1 or -1 by the fraction |tanh z|. The last convolution is then
        initialised with 0, so that the network starts as the identity. Unlike tanh(z + arctanh x), this form is exactly
        the identity and has a gradient where x is 1 or -1, as in the background of a digit.
      dtype: dtype of the computation. Parameters, batch statistics and the result are float32.
    """

    encoder: Sequence[int] = (16, 32, 64)
    bottleneck: Sequence[int] = (128, 64)
    decoder: Sequence[int] = (32, 16)
    dropout: float = 0.0
    residual: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool,
        condition: jax.Array | None = None,
        mask: jax.Array | None = None,
        axis_name: AxisName = None,
    ) -> jax.Array:
        """Transforms a batch.

        Args:
          images: (N, *shape, C) float32 in [-1, 1], with shape (H, W) or (D, H, W) of any size.
          train: whether to normalise by the batch, update the running statistics and apply dropout.
          condition: (N, K) floats, such as the one-hot target site, as K more input channels that are constant over
            the image. None, the published form, is K = 0.
          mask: (N,), 0 where a row is padding. Such rows do not enter the batch statistics.
          axis_name: mapped axis or axes over whose devices the batch is spread, see `batch_norm`.

        Returns:
          (N, *shape, C) float32 in [-1, 1].

        Raises:
          ValueError: `images` or `condition` has the wrong shape, or a decoder layer is not as wide as the encoder
            layer that is added to it.
        """
        self._check_widths()
        x = with_condition(images, condition).astype(self.dtype)
        skips = []
        for index, features in enumerate(self.encoder):
            block = ConvBlock(features, stride=1 if index == 0 else 2, dtype=self.dtype, name=f"encoder{index}")
            x = block(x, train=train, mask=mask, axis_name=axis_name)
            skips.append(x)
        for index, features in enumerate(self.bottleneck):
            x = ConvBlock(features, dtype=self.dtype, name=f"bottleneck{index}")(
                x, train=train, mask=mask, axis_name=axis_name
            )
        for index, (features, skip) in enumerate(zip(self.decoder, skips[-2::-1], strict=True)):
            up = UpBlock(features, self.dropout, self.dtype, name=f"decoder{index}")
            x = up(x, train=train, mask=mask, axis_name=axis_name, shape=skip.shape[1:-1]) + skip
        return self._output(x, images)

    def _output(self, x, images):
        kernel_init = nn.initializers.zeros if self.residual else lecun_fan_in
        last = Conv(images.shape[-1], 3, 1, 1, kernel_init=kernel_init, dtype=self.dtype, name="output")
        step = jnp.tanh(last(x).astype(jnp.float32))
        return (1 - jnp.abs(step)) * images.astype(jnp.float32) + step if self.residual else step

    def _check_widths(self):
        skips = tuple(self.encoder[-2::-1])
        if tuple(self.decoder) != skips:
            raise ValueError(
                f"decoder must be {skips}, as wide as the encoder layers {tuple(self.encoder)} added to it, "
                f"got {tuple(self.decoder)}"
            )
