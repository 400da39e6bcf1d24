"""Losses of the target: cross-entropy for classes, squared error for numbers; values for each row, then their mean."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from eqpool.ops.arguments import check_count, check_integers, check_shape
from eqpool.ops.numerics import AxisName, as_float, row_weight, sum_over, zero_masked_rows


def task_loss(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    num_classes: int,
    mask: ArrayLike | None = None,
    class_weights: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    """The mean over the rows that count of the cross-entropy, or of the squared error where the target is a number.

    Args:
      prediction: (N, num_classes) logits, or (N, 1) for a numeric target; half precision is computed in float32.
      target: (N,) integer classes, or numbers. A negative class is an unknown one and drops its row.
      num_classes: 0 says that the target is a number.
      mask: (N,) booleans or 0-1; rows with 0 are dropped, whatever they hold.
      class_weights: (num_classes,), not negative; or None for equal ones; the mean is then sum w_y value / sum w_y.
      axis_name: mapped axis or axes over whose devices the batch is spread; see `eqpool.losses` on gradients.

    Returns:
      A scalar, float32 at least; 0 if no row counts, and NaN where a prediction or target that counts is not finite or
      a class is not below `num_classes`.

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
        values = squared_error(zero_masked_rows(prediction, weight)[:, 0], target)
        return _weighted_mean(values, weight, axis_name)
    check_integers("target", target, f", as num_classes is {num_classes}")
    weight = jnp.where(target >= 0, weight, 0)
    values = cross_entropy(zero_masked_rows(prediction, weight), target)
    if class_weights is not None:
        class_weights = as_float(class_weights).astype(prediction.dtype)
        check_shape("class_weights", class_weights, (num_classes,))
        if not isinstance(class_weights, jax.core.Tracer) and not (class_weights >= 0).all():
            raise ValueError(f"class_weights is {class_weights}, expected numbers from 0 on")
        weight = weight * class_weights[jnp.maximum(target, 0)]
    return _weighted_mean(values, weight, axis_name)


def cross_entropy(logits: ArrayLike, label: ArrayLike) -> Array:
    """-log softmax(logits)[label], value by value: logits (..., K), label (...) integers in [0, K) -> (...)."""
    log_probability = jax.nn.log_softmax(as_float(logits), axis=-1)
    index = jnp.maximum(jnp.asarray(label), 0)[..., None]
    return -jnp.take_along_axis(log_probability, index, axis=-1)[..., 0]


def squared_error(prediction: ArrayLike, target: ArrayLike) -> Array:
    """(prediction - target)^2, value by value."""
    prediction = as_float(prediction)
    return jnp.square(prediction - as_float(target).astype(prediction.dtype))


def _weighted_mean(values: Array, weight: Array, axis_name: AxisName) -> Array:
    total, weights = sum_over((jnp.sum(values * weight), jnp.sum(weight)), axis_name)
    return total / jnp.where(weights > 0, weights, 1)
