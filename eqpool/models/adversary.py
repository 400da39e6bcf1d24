"""The adversary, a network that predicts the site from features."""

import jax
from flax import linen as nn

from eqpool.models.batch_norm import batch_norm
from eqpool.ops.devices import AxisName


class Adversary(nn.Module):
    """A classifier of features with three hidden layers and batch norm (Lokhande et al. 2022, appendix A.2).

    It maps (N, features) to (N, classes) logits. As a measure of invariance it is trained on frozen features.

    Attributes:
      classes: number of classes.
      hidden_units: units of each hidden layer, 64 as published.
    """

    classes: int
    hidden_units: int = 64

    @nn.compact
    def __call__(
        self, features: jax.Array, *, train: bool, mask: jax.Array | None = None, axis_name: AxisName = None
    ) -> jax.Array:
        hidden = features
        for _ in range(3):
            hidden = nn.Dense(self.hidden_units)(hidden)
            hidden = batch_norm(hidden, train=train, mask=mask, axis_name=axis_name, momentum=0.9)
            hidden = nn.relu(hidden)
        return nn.Dense(self.classes)(hidden)
