"""The adversary, a network that predicts the site from features."""

import jax
from flax import linen as nn


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
    def __call__(self, features: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        rows = None if mask is None else (mask > 0)[:, None]
        hidden = features
        for _ in range(3):
            hidden = nn.Dense(self.hidden_units)(hidden)
            hidden = nn.BatchNorm(use_running_average=not train, momentum=0.9)(hidden, mask=rows)
            hidden = nn.relu(hidden)
        return nn.Dense(self.classes)(hidden)
