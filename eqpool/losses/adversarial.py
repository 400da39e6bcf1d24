"""Adversarial losses of Robinson et al. 2020: discriminator (eq. (1)), generator (eq. (2)) and soft labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from eqpool.ops.arguments import check_count, check_shape
from eqpool.ops.devices import AxisName
from eqpool.ops.numerics import as_float
from eqpool.ops.rows import masked_mean, row_weight, zero_masked_rows

SOFTNESS = 0.03


def soft_labels(key: Array, count: int, *, real: bool, softness: float = SOFTNESS) -> Array:
    """Draws soft labels (Robinson et al. 2020, section 2).

    Labels of real images are uniform in [1 - softness, 1], those of generated images in [0, softness].

    Args:
      key: random key.
      count: number of labels.
      real: True for real images, False for generated ones.
      softness: number in [0, 1]. 0 gives hard labels, 1 the whole range [0, 1].

    Returns:
      (count,) float32.

    Raises:
      ValueError: `count` is negative or `softness` is not in [0, 1].
    """
    count = check_count("count", count, least=0)
    if not isinstance(softness, jax.core.Tracer) and not 0 <= softness <= 1:
        raise ValueError(f"softness is {softness}, expected a number from 0 to 1")
    noise = softness * jax.random.uniform(key, (count,))
    return 1 - noise if real else noise


def adversarial_loss(
    logits: ArrayLike, labels: ArrayLike, *, mask: ArrayLike | None = None, axis_name: AxisName = None
) -> Array:
    """Computes the mean binary cross-entropy between a discriminator's logits and labels in [0, 1].

    The generator's L_adv is this loss between D_T(S2T) and labels of real images.

    Args:
      logits: (N,). Half precision is computed in float32.
      labels: (N,).
      mask: (N,) booleans or 0-1. Rows with 0 are dropped, whatever values they hold.
      axis_name: mapped axis or axes over whose devices the batch is spread, see `eqpool.losses` on gradients.

    Returns:
      A scalar, float32 at least. It is 0 if no row counts.

    Raises:
      ValueError: shapes that do not go together.
    """
    logits, labels = as_float(logits), as_float(labels)
    check_shape("logits", logits, ("N",))
    check_shape("labels", labels, logits.shape, ", as logits")
    weight = row_weight(mask, len(logits))
    logits, labels = zero_masked_rows(logits, weight), zero_masked_rows(labels, weight)
    return masked_mean(optax.sigmoid_binary_cross_entropy(logits, labels), mask, axis_name=axis_name)


def discriminator_loss(
    generated_logits: ArrayLike,
    real_logits: ArrayLike,
    generated_labels: ArrayLike,
    real_labels: ArrayLike,
    *,
    generated_mask: ArrayLike | None = None,
    real_mask: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    """Computes eq. (1) of Robinson et al. 2020: half of L_bce(D_T(S2T), 0) + L_bce(D_T(T), 1).

    Arguments are those of `adversarial_loss`, for generated and for real images. Labels are soft.
    """
    generated = adversarial_loss(generated_logits, generated_labels, mask=generated_mask, axis_name=axis_name)
    real = adversarial_loss(real_logits, real_labels, mask=real_mask, axis_name=axis_name)
    return (generated + real) / 2


def gradient_penalty(
    judge: Callable[[Array], Array], images: ArrayLike, *, mask: ArrayLike | None = None, axis_name: AxisName = None
) -> Array:
    """Computes R1, half the mean squared norm of a discriminator's gradient at real images.

    The penalty (Mescheder et al. 2018, eq. (9)) bounds the slope of a discriminator that separates all images, which
    stabilises adversarial training.

    Args:
      judge: function from images (N, ...) to logits (N,). Each logit depends on its own image only.
      images: (N, ...) real images.
      mask, axis_name: as for `adversarial_loss`.
    """
    images = as_float(images)
    check_shape("images", images, ("N", "D", ...))
    images = zero_masked_rows(images, row_weight(mask, len(images)))
    slopes = jax.grad(lambda images: jnp.sum(judge(images)))(images)
    norms = jnp.sum(jnp.square(slopes), axis=tuple(range(1, slopes.ndim)))
    return masked_mean(norms, mask, axis_name=axis_name) / 2


def image_distance(
    first: ArrayLike, second: ArrayLike, *, mask: ArrayLike | None = None, axis_name: AxisName = None
) -> Array:
    """Computes the l1 distance of identity and cycle losses: the mean absolute difference over voxels and rows.

    Args:
      first, second: (N, ...) of one shape. Half precision is computed in float32.
      mask, axis_name: as for `adversarial_loss`.

    Returns:
      A scalar, float32 at least. It is 0 if no row counts.

    Raises:
      ValueError: the shapes differ.
    """
    first, second = as_float(first), as_float(second)
    check_shape("first", first, ("N", "D", ...))
    check_shape("first", first, second.shape, ", as second")
    weight = row_weight(mask, len(first))
    first, second = zero_masked_rows(first, weight), zero_masked_rows(second, weight)
    distances = jnp.mean(jnp.abs(first - second), axis=tuple(range(1, first.ndim)))
    return masked_mean(distances, mask, axis_name=axis_name)
