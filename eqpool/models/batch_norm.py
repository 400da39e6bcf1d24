"""Batch norm over the rows that count, of one device or of all devices of a mapped axis."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype

from eqpool.ops.devices import AxisName, sum_over


def batch_norm(
    x: jax.Array,
    *,
    train: bool,
    mask: jax.Array | None = None,
    axis_name: AxisName = None,
    **settings: Any,
) -> jax.Array:
    """Normalises each channel of `x` inside a compact method of the calling module, to which the layer belongs.

    Args:
      x: (N, ..., C).
      train: whether to normalise by the batch and update the running statistics (collection "batch_stats"), instead of
        normalising by the running statistics.
      mask: (N,), rows with 0 do not enter the statistics. None for all rows.
      axis_name: mapped axis or axes over whose devices the batch is spread. The statistics are then those of the rows
        of all devices, even where devices have different numbers of rows that count.
      settings: attributes of `flax.linen.BatchNorm`, such as `momentum`, `epsilon`, `dtype` and `name`.

    Returns:
      The shape of `x`, in `dtype`.
    """
    rows = None if mask is None else (mask > 0).reshape(-1, *(1,) * (x.ndim - 1))
    return BatchNorm(use_running_average=not train, axis_name=axis_name, **settings)(x, mask=rows)


class BatchNorm(nn.BatchNorm):
    """Flax's batch norm, with exact statistics over the devices of `axis_name`.

    Flax averages the means of the devices. That is not the mean of their rows where a mask leaves the devices different
    numbers of rows, and it is NaN where a device has none. Without `axis_name` this is Flax's own computation.
    """

    axis_name: Any = None  # an `AxisName`, where Flax expects one name

    @nn.compact
    def __call__(self, x: Any, use_running_average: bool | None = None, *, mask: jax.Array | None = None) -> Any:
        """Normalises (N, ..., C). Arguments are those of Flax."""
        running = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        if self.axis_name is None or running or self.is_initializing():
            return super().__call__(x, use_running_average, mask=mask)
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        mean, variance = mean_and_variance(x.astype(jnp.float32), mask, self.axis_name)
        running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
        running_variance.value = self.momentum * running_variance.value + (1 - self.momentum) * variance
        scale = self.param("scale", self.scale_init, channels, self.param_dtype)
        bias = self.param("bias", self.bias_init, channels, self.param_dtype)
        normalised = (x - mean) * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
        return normalised.astype(canonicalize_dtype(x, scale, bias, dtype=self.dtype))


def mean_and_variance(x: jax.Array, mask: jax.Array | None, axis_name: AxisName) -> tuple[jax.Array, jax.Array]:
    """Computes the mean and variance of each channel over the rows of all devices, (C,) float32 each.

    Sums and counts are added over the devices, because their means must not be averaged. The variance is that of the
    differences from the mean, because E[x^2] - E[x]^2 would lose digits. If no row counts, both are 0.

    Args:
      x: (N, ..., C) float32.
      mask: (N, 1, ...) booleans, or None for all rows.
      axis_name: mapped axis or axes.
    """
    axes = tuple(range(x.ndim - 1))
    rows = jnp.ones((len(x), *(1,) * (x.ndim - 1)), bool) if mask is None else mask

    def total(values: jax.Array) -> jax.Array:
        return jnp.sum(values, axis=axes, where=rows)

    sums, num_rows = sum_over((total(x), jnp.sum(rows, dtype=x.dtype)), axis_name)
    count = jnp.maximum(num_rows, 1) * math.prod(x.shape[1:-1])
    mean = sums / count
    return mean, sum_over(total(jnp.square(x - mean)), axis_name) / count
