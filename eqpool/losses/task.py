"""Losses of the target: cross-entropy for classes and squared error for numbers, averaged over the rows that count."""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from eqpool.ops.arguments import check_count, check_integers, check_shape
from eqpool.ops.devices import AxisName, sum_over
from eqpool.ops.numerics import as_float
from eqpool.ops.rows import row_weight, zero_masked_rows


def task_loss(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    num_classes: int,
    mask: ArrayLike | None = None,
    class_weights: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    """Computes the mean over rows of the cross-entropy, or of the squared error for a numeric target.

    Args:
      prediction: (N, num_classes) logits, or (N, 1) for a numeric target. Half precision is computed in float32.
      target: (N,) integer classes, or numbers. A negative class is unknown, and its row is dropped.
      num_classes: number of classes, 0 for a numeric target.
      mask: (N,) booleans or 0-1. Rows with 0 are dropped, whatever values they hold.
      class_weights: (num_classes,) weights w, not negative, or None for equal ones. The mean is then
        sum w_y value / sum w_y.
      axis_name: mapped axis or axes over whose devices the batch is spread, see `eqpool.losses` on gradients.

    Returns:
      A scalar, float32 at least. It is 0 if no row counts. It is not finite where a prediction or target that counts
      is NaN or infinite, or where a class is not below `num_classes`.

    Raises:
      ValueError: shapes or dtypes that do not go together.
    """
    prediction, target = as_float(prediction), jnp.asarray(target)
    num_classes = check_count("num_classes", num_classes, least=0)
    check_shape("target", target, ("N",))
    check_shape("prediction", prediction, (*target.shape, max(num_classes, 1)), f", for target {target.shape}")
    weight = row_weight(mask, target.shape[0], dtype=prediction.dtype)
    if num_classes == 0:
        if class_weights is not None:
            raise ValueError("class_weights is given for a numeric target (num_classes is 0), expected None")
        target = zero_masked_rows(as_float(target).astype(prediction.dtype), weight)
        values = optax.squared_error(zero_masked_rows(prediction, weight)[:, 0], target)
        return _weighted_mean(values, weight, axis_name)
    check_integers("target", target, f", as num_classes is {num_classes}")
    weight = jnp.where(target >= 0, weight, 0)
    known = jnp.maximum(target, 0)
    values = optax.softmax_cross_entropy_with_integer_labels(zero_masked_rows(prediction, weight), known)
    if class_weights is not None:
        weight = weight * _checked_class_weights(class_weights, num_classes, prediction.dtype)[known]
    return _weighted_mean(values, weight, axis_name)


def _checked_class_weights(class_weights: ArrayLike, num_classes: int, dtype: jnp.dtype) -> Array:
    class_weights = as_float(class_weights).astype(dtype)
    check_shape("class_weights", class_weights, (num_classes,))
    if not isinstance(class_weights, jax.core.Tracer) and not (class_weights >= 0).all():
        raise ValueError(f"class_weights is {class_weights}, expected numbers from 0 on")
    return class_weights


def _weighted_mean(values: Array, weight: Array, axis_name: AxisName) -> Array:
    # By hand, because optax has no weighted mean over rows that are spread over devices.
    total, weights = sum_over((jnp.sum(values * weight), jnp.sum(weight)), axis_name)
    return total / jnp.where(weights > 0, weights, 1)
