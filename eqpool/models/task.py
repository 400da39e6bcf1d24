"""The task models of Robinson et al. 2020, Tables 5 and 6: two classifiers and the age regressor."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from eqpool.models.conv import Conv, kaiming_fan_in
from eqpool.models.layers import ConvBlock, LogitConv, check_images
from eqpool.models.resolution import max_pool
from eqpool.ops.devices import AxisName

TaskModelName = Literal["morpho_classifier", "sex_classifier", "age_regressor"]


class ConvClassifier(nn.Module):
    """Convolutions that reduce an image to one position with logits.

    At other image sizes the logits of all positions are averaged. The defaults are those of the 3-class classifier of
    Table 5. Its contradictions are read as follows:

    | row | printed | read as |
    |---|---|---|
    | sizes | in 64^3, then 24, 14, 7, 4, 1 | 28, 28, 14, 7, 4 from k, s and p for 28 x 28, then 4 to 1 |
    | last | sigmoid, 3 channels | logits of a softmax |

    Attributes:
      num_classes: number of logits.
      channels: channels of each layer but the last. Only the first layer has no batch norm.
      kernel_size: number of taps of every layer.
      first_stride: stride of the first layer. The others halve the size.
      dropout: rate of dropping, 1 - D.
      dropout_layers: number of layers with dropout, counted from the last.
      last_stride, last_padding: settings of the convolution that computes the logits.
      dtype: dtype of the computation. Parameters, batch statistics and the result are float32.
    """

    num_classes: int = 3
    channels: Sequence[int] = (16, 32, 64, 128)
    kernel_size: int = 3
    first_stride: int = 1
    dropout: float = 0.5
    dropout_layers: int = 1
    last_stride: int = 2
    last_padding: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> jax.Array:
        """Classifies a batch.

        Args:
          images: (N, *shape, C) float32, with shape (H, W) or (D, H, W) of any size.
          train: whether to normalise by the batch, update the running statistics and apply dropout.
          mask: (N,), 0 where a row is padding. Such rows do not enter the batch statistics.
          axis_name: mapped axis or axes over whose devices the batch is spread, see `batch_norm`.

        Returns:
          (N, num_classes) float32 logits.

        Raises:
          ValueError: `images` has the wrong rank.
        """
        check_images(images)
        x = images.astype(self.dtype)
        for index, features in enumerate(self.channels):
            drops = index >= len(self.channels) - self.dropout_layers
            block = ConvBlock(
                features,
                self.kernel_size,
                stride=2 if index else self.first_stride,
                norm="batch" if index else "none",
                dropout=self.dropout if drops else 0.0,
                dtype=self.dtype,
                name=f"layer{index}",
            )
            x = block(x, train=train, mask=mask, axis_name=axis_name)
        shape = self.kernel_size, self.last_stride, self.last_padding
        return LogitConv(self.num_classes, *shape, dtype=self.dtype, name="logits")(x)


def sex_classifier(num_classes: int = 2, dtype: jnp.dtype = jnp.float32) -> ConvClassifier:
    """Makes the sex classifier of Table 6. The contradictions of the table are read as follows:

    | row | printed | read as |
    |---|---|---|
    | first | s 2, 64 voxels to 64 | s 2, because six halvings take 64 to 1, the input of the last row |
    | next four | 64 to 32, 16, 8, 4 | 32 to 16, 8, 4, 2 |
    | both of 128 channels | k 2, p 2 | k 5, which matches p 2, while k 2 with p 2 does not halve the size |
    | last | 1 channel, sigmoid | num_classes logits of a softmax |

    At 64^3 or below, the last convolutions see one or two voxels per axis. Most of their 5^3 taps see only padding and
    have no gradient.
    """
    return ConvClassifier(
        num_classes,
        channels=(8, 16, 32, 64, 128, 128),
        kernel_size=5,
        first_stride=2,
        dropout_layers=3,
        last_stride=1,
        last_padding=2,
        dtype=dtype,
    )


class AgeRegressor(nn.Module):
    """The age regressor of Table 6: two convolutions with max pools, then linear layers.

    The contradictions of the table are read as follows:

    | row | printed | read as |
    |---|---|---|
    | first conv | nf 16, out 8 channels | 8, as in the next three entries |
    | MaxPool | s 2, p 1, no k | window 3, which with p 1 takes 64 to 32 |
    | second conv | s 2, 32 voxels to 32 | s 1 |
    | first Linear | in 32 * 32 * 32 * 32 | 32 x 16^3, the output of the second pool |

    Attributes:
      channels: channels of the convolutions.
      hidden: units of the linear layers but the last.
      dtype: dtype of the computation. Parameters and the result are float32.
    """

    channels: Sequence[int] = (8, 32)
    hidden: Sequence[int] = (128, 64, 32)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> jax.Array:
        """Maps (N, *shape, C) float32 to (N,) float32. The other arguments have no effect.

        The parameters fit images of one shape only.

        Raises:
          ValueError: `images` has the wrong rank.
        """
        check_images(images)
        x = images.astype(self.dtype)
        for index, features in enumerate(self.channels):
            x = Conv(features, 3, 1, 1, kernel_init=kaiming_fan_in, dtype=self.dtype, name=f"conv{index}")(x)
            x = max_pool(nn.relu(x), window=3, stride=2, padding=1)
        x = x.reshape(x.shape[0], -1)
        for index, units in enumerate(self.hidden):
            x = nn.relu(nn.Dense(units, dtype=self.dtype, name=f"linear{index}")(x))
        return nn.Dense(1, dtype=self.dtype, name="age")(x)[:, 0].astype(jnp.float32)


def make_task_model(name: TaskModelName, num_classes: int = 0, dtype: jnp.dtype = jnp.float32) -> nn.Module:
    """Makes the task model called `name`, for use as `model.apply(variables, images, train=..., mask=...)`.

    Args:
      name: "morpho_classifier", "sex_classifier" or "age_regressor".
      num_classes: number of logits of a classifier, 0 for a numeric target.
      dtype: dtype of the computation.

    Raises:
      ValueError: unknown `name`, a classifier with fewer than two classes, or a regressor with classes.
    """
    if name not in ("morpho_classifier", "sex_classifier", "age_regressor"):
        raise ValueError(f"name must be morpho_classifier, sex_classifier or age_regressor, got {name!r}")
    if name == "age_regressor":
        if num_classes:
            raise ValueError(f"num_classes must be 0 for the age_regressor, got {num_classes}")
        return AgeRegressor(dtype=dtype)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2 for the {name}, got {num_classes}")
    return sex_classifier(num_classes, dtype) if name == "sex_classifier" else ConvClassifier(num_classes, dtype=dtype)
