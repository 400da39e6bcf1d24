"""The loss of the target as the stages use it, over rows with a known target and with optional class weights."""

import jax
import jax.numpy as jnp

from eqpool.config import RunConfig
from eqpool.engine.state import Batch
from eqpool.losses.task import task_loss
from eqpool.ops.devices import AxisName, sum_over


def prediction_loss(
    config: RunConfig,
    prediction: jax.Array,
    rows: Batch,
    num_classes: int,
    mask: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    """Computes the mean of `task_loss` over rows with a known target. `mask` (N,) drops further rows.

    The rows are those of all devices of `axis_name`.

    With `config.class_weights` "balanced" each class present contributes the mean over its own rows, so that a rare
    class counts as much as a common one.
    """
    known = rows["target_known"] if mask is None else mask * rows["target_known"]
    weights = None
    if config.class_weights == "balanced" and num_classes:
        members = jax.nn.one_hot(rows["target"], num_classes) * known[:, None]
        counts = sum_over(jnp.sum(members, axis=0), axis_name)
        weights = jnp.where(counts > 0, 1 / jnp.maximum(counts, 1), 0)
    return task_loss(
        prediction, rows["target"], num_classes=num_classes, mask=known, class_weights=weights, axis_name=axis_name
    )
