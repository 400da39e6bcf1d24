"""The adversarial losses against float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.losses.adversarial import (
    adversarial_loss,
    discriminator_loss,
    gradient_penalty,
    image_distance,
    soft_labels,
)

LOGITS = np.array([-30.0, -1.5, 0.0, 0.7, 40.0], np.float32)
LABELS = np.array([0.0, 0.02, 0.5, 0.98, 1.0], np.float32)


def cross_entropy(logit: float, label: float) -> float:
    logit = float(logit)
    log_p, log_q = -np.logaddexp(0.0, -logit), -np.logaddexp(0.0, logit)
    return -float(label) * log_p - (1 - float(label)) * log_q


def test_adversarial_loss_is_the_mean_cross_entropy_of_rows_that_count():
    each = [cross_entropy(logit, label) for logit, label in zip(LOGITS, LABELS, strict=True)]
    np.testing.assert_allclose(adversarial_loss(LOGITS, LABELS), np.mean(each), rtol=1e-5)
    mask = np.array([1, 0, 1, 1, 0], np.float32)
    expected = np.mean([each[0], each[2], each[3]])
    spoilt = np.where(mask > 0, LOGITS, np.nan).astype(np.float32)
    np.testing.assert_allclose(adversarial_loss(spoilt, LABELS, mask=mask), expected, rtol=1e-5)
    gradient = jax.grad(lambda logits: adversarial_loss(logits, LABELS, mask=mask))(jnp.asarray(spoilt))
    assert np.isfinite(gradient).all() and gradient[1] == 0


def test_discriminator_loss_is_half_of_both_sides():
    generated, real = LOGITS[:2], LOGITS[2:]
    expected = (
        np.mean([cross_entropy(logit, 0.01) for logit in generated])
        + np.mean([cross_entropy(logit, 0.99) for logit in real])
    ) / 2
    found = discriminator_loss(generated, real, jnp.full(2, 0.01), jnp.full(3, 0.99))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_soft_labels_stay_in_their_ranges():
    real = np.asarray(soft_labels(jax.random.key(0), 2000, real=True))
    generated = np.asarray(soft_labels(jax.random.key(1), 2000, real=False))
    assert 0.97 <= real.min() < 0.971 and 0.999 < real.max() <= 1
    assert 0 <= generated.min() < 0.001 and 0.029 < generated.max() <= 0.03
    np.testing.assert_array_equal(soft_labels(jax.random.key(0), 3, real=True, softness=0.0), 1)


def test_gradient_penalty_is_half_the_squared_slope_of_each_image():
    generator = np.random.default_rng(0)
    images = generator.normal(size=(4, 3, 2)).astype(np.float32)
    weights = generator.normal(size=(3, 2)).astype(np.float32)

    def judge(images):
        return jnp.tanh(jnp.einsum("nij,ij->n", images, weights))

    def slope(image: np.ndarray) -> np.ndarray:  # by central differences, in float64
        def logit(image):
            return np.tanh(np.sum(image * weights.astype(np.float64)))

        steps = 1e-5 * np.eye(image.size).reshape(-1, *image.shape)
        return np.array([(logit(image + step) - logit(image - step)) / 2e-5 for step in steps])

    each = [np.sum(slope(image.astype(np.float64)) ** 2) / 2 for image in images]
    np.testing.assert_allclose(gradient_penalty(judge, images), np.mean(each), rtol=1e-4)
    mask = np.array([1, 0, 1, 1])
    np.testing.assert_allclose(gradient_penalty(judge, images, mask=mask), np.mean([each[0], *each[2:]]), rtol=1e-4)

    def penalty(weights: jax.Array, images: np.ndarray) -> jax.Array:
        return gradient_penalty(lambda images: jnp.tanh(jnp.einsum("nij,ij->n", images, weights)), images, mask=mask)

    spoilt = np.where(mask[:, None, None] > 0, images, np.nan)
    np.testing.assert_array_equal(*(jax.grad(penalty)(jnp.asarray(weights), which) for which in (images, spoilt)))


@pytest.mark.parametrize("shape", [(4, 5, 5), (4, 3, 3, 3, 1)])
def test_image_distance_is_the_mean_absolute_difference(shape):
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, *shape)).astype(np.float32)
    rows = [np.mean(np.abs(x.astype(np.float64) - y)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(image_distance(a, b), np.mean(rows), rtol=1e-5)
    mask = np.array([1, 1, 0, 1])
    np.testing.assert_allclose(image_distance(a, b, mask=mask), np.mean([rows[0], rows[1], rows[3]]), rtol=1e-5)


def test_shapes_that_do_not_go_together():
    with pytest.raises(ValueError, match="logits has shape"):
        adversarial_loss(np.zeros((2, 1), np.float32), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="first has shape"):
        image_distance(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))


def test_dropped_rows_may_hold_anything_in_every_argument():
    mask = np.array([1, 0], np.float32)
    images = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])
    gradient = jax.grad(lambda x: image_distance(x, 3 * x, mask=mask))(images)
    np.testing.assert_allclose(gradient, [[1, 1], [0, 0]])
    labels = jnp.array([1.0, jnp.nan])
    value, gradient = jax.value_and_grad(adversarial_loss, argnums=(0, 1))(labels, labels, mask=mask)
    np.testing.assert_allclose(value, np.log1p(np.exp(-1)), rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert np.isnan(adversarial_loss(labels, labels)) and np.isnan(image_distance(images, images))
    with pytest.raises(ValueError, match=r"mask has shape \(3,\), expected \(2,\)"):
        adversarial_loss(labels, labels, mask=jnp.ones(3))


def test_soft_labels_of_a_bad_count_or_softness():
    for arguments, message in (
        ({"count": -1}, "count is -1, expected at least 0"),
        ({"count": 2, "softness": 1.5}, "softness is 1.5, expected a number from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            soft_labels(jax.random.key(0), real=True, **arguments)
    assert soft_labels(jax.random.key(0), 0, real=True).shape == (0,)
