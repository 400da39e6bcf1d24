import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.losses.task import task_loss


def logits_and_classes(count: int = 7) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, 3)).astype(np.float32), np.arange(count, dtype=np.int32) % 3


def values_float64(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(label)), label]


def test_cross_entropy_value_by_value():
    logits, label = logits_and_classes()
    each = [task_loss(logits[i : i + 1], label[i : i + 1], num_classes=3) for i in range(len(label))]
    np.testing.assert_allclose(each, values_float64(logits, label), rtol=1e-5)
    assert task_loss(jnp.array([[1e4, -1e4]]), jnp.array([1]), num_classes=2) == pytest.approx(2e4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_a_prediction_that_is_not_finite_gives_no_finite_loss(num_classes, value):
    prediction = np.ones((4, max(num_classes, 1)), np.float32)
    prediction[1, -1] = value
    assert not np.isfinite(task_loss(prediction, np.zeros(4, np.int32), num_classes=num_classes))
    assert np.isnan(task_loss(np.ones((4, 3), np.float32), np.array([0, 1, 2, 3]), num_classes=3))  # no such class


def test_class_weights_masks_and_unknown_classes():
    logits, label = logits_and_classes()
    label[2] = -1
    mask = np.array([1, 1, 1, 0, 1, 1, 1], np.float32)
    class_weights = np.array([1.0, 2.0, 0.5])
    kept = (mask > 0) & (label >= 0)
    weights = class_weights[label[kept]]
    expected = np.sum(weights * values_float64(logits[kept], label[kept])) / np.sum(weights)
    logits[~kept] = np.nan

    def loss(logits):
        return task_loss(logits, label, num_classes=3, mask=mask, class_weights=class_weights)

    value, gradient = jax.value_and_grad(loss)(logits)
    assert value == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0.01
    np.testing.assert_array_equal(gradient[~kept], 0)


def test_numeric_target():
    prediction, target = np.array([[1.0], [2.0], [np.nan]], np.float32), np.array([0.0, 4.0, np.nan])
    mask = np.array([True, True, False])
    assert task_loss(prediction, target, num_classes=0, mask=mask) == pytest.approx(2.5)
    gradient = jax.grad(lambda p: task_loss(p, target, num_classes=0, mask=mask))(prediction)
    np.testing.assert_allclose(gradient[:, 0], [1, -2, 0])


@pytest.mark.parametrize("num_classes", [0, 3])
def test_no_row_gives_zero(num_classes):
    prediction = jnp.ones((4, max(num_classes, 1)))
    target = jnp.zeros(4, jnp.int32)
    value, gradient = jax.value_and_grad(lambda p: task_loss(p, target, num_classes=num_classes, mask=jnp.zeros(4)))(
        prediction
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_half_precision_is_computed_in_float32():
    logits, label = logits_and_classes()
    half = jnp.asarray(logits, jnp.bfloat16)
    value = task_loss(half, label, num_classes=3)
    assert value.dtype == jnp.float32
    assert value == pytest.approx(values_float64(np.asarray(half, np.float32), label).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("prediction", "target", "options", "message"),
    [
        (np.ones((4, 3)), np.zeros(4, np.int32), {"num_classes": 2}, r"shape \(4, 3\), expected \(4, 2\)"),
        (np.ones(4), np.zeros(4), {"num_classes": 0}, r"prediction has shape \(4,\), expected \(4, 1\)"),
        (np.ones((4, 2)), np.zeros(4), {"num_classes": 2}, "target has dtype float32, expected"),
        (
            np.ones((4, 2)),
            np.zeros(4, np.int32),
            {"num_classes": 2, "class_weights": np.ones(3)},
            r"class_weights has shape \(3,\), expected \(2,\)",
        ),
        (np.ones((4, 1)), np.zeros(4), {"num_classes": 0, "class_weights": np.ones(1)}, "class_weights is given"),
    ],
)
def test_errors_name_the_argument_and_what_was_expected(prediction, target, options, message):
    with pytest.raises(ValueError, match=message):
        task_loss(prediction, target, **options)
