"""Fully connected blocks: the tabular encoder and decoder, and the heads of Lokhande et al. 2022 (Listing 2)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from eqpool.models.batch_norm import batch_norm
from eqpool.ops.devices import AxisName


class MLP(nn.Module):
    """Linear layers with swish between them: (N, features) to (N, outputs) float32.

    Attributes:
      hidden: units of each hidden layer.
      outputs: units of the last, linear layer.
      dtype: dtype of the computation. Parameters are float32.
    """

    hidden: Sequence[int]
    outputs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        hidden = features.astype(self.dtype)
        for units in self.hidden:
            hidden = nn.swish(nn.Dense(units, dtype=self.dtype)(hidden))
        return nn.Dense(self.outputs, dtype=self.dtype)(hidden).astype(jnp.float32)


class Head(nn.Module):
    """The fully connected block after pooling of Lokhande et al. 2022 (Listing 2).

    It consists of dropout, linear layer, batch norm, swish, dropout and linear layer, and maps (N, features) to
    (N, outputs) float32. Linear layers have no bias and the hidden width is 128, as published.
    """

    outputs: int
    hidden_units: int = 128
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, features: jax.Array, *, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> jax.Array:
        hidden = nn.Dropout(self.dropout, deterministic=not train)(features.astype(self.dtype))
        hidden = nn.Dense(self.hidden_units, use_bias=False, dtype=self.dtype)(hidden)
        settings = {"momentum": 0.9, "epsilon": 1e-5, "dtype": self.dtype}
        hidden = batch_norm(hidden, train=train, mask=mask, axis_name=axis_name, **settings)
        hidden = nn.Dropout(self.dropout, deterministic=not train)(nn.swish(hidden))
        return nn.Dense(self.outputs, use_bias=False, dtype=self.dtype)(hidden).astype(jnp.float32)
