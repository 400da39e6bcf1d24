import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.models.conv import conv
from eqpool.models.layers import ConvBlock, LogitConv, UpBlock, drop, with_condition


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_dropping_keeps_the_mean_and_its_rate(channels, rate):
    kept = np.asarray(drop(jax.random.key(0), jnp.ones((4, 50, 50, channels)), rate))
    assert set(np.unique(kept)) == {0.0, np.float32(1 / (1 - rate))}
    np.testing.assert_allclose(np.mean(kept == 0), rate, atol=4 * np.sqrt(rate * (1 - rate) / kept.size))
    # Neighbours, whose bits come from one word, are independent.
    zero = (kept == 0).astype(float) - rate
    correlation = np.mean(zero[..., 1:] * zero[..., :-1]) if channels > 1 else 0.0
    assert abs(correlation) < 0.01


def test_dropping_keeps_the_dtype_and_follows_its_key():
    x = jnp.ones((2, 9, 9, 4), jnp.bfloat16)
    one, again, other = (drop(jax.random.key(seed), x, 0.5) for seed in (0, 0, 1))
    assert one.dtype == jnp.bfloat16
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_outside_its_range_is_named(rate):
    with pytest.raises(ValueError, match=f"got {rate}"):
        drop(jax.random.key(0), jnp.ones((1, 4)), rate)


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_a_block_normalises_by_what_it_says(norm):
    x = 5 + 3 * normal(0, 4, 9, 8, 3)
    block = ConvBlock(6, stride=2, norm=norm)
    variables = block.init(jax.random.key(0), x, train=True)
    out, _ = block.apply(variables, x, train=True, mutable=["batch_stats"])
    assert out.shape == (4, 5, 4, 6)
    plain = conv(x, variables["params"]["conv"]["kernel"], 2, 1)
    axes = {"batch": (0, 1, 2), "instance": (1, 2)}.get(norm)
    if axes:
        plain = (plain - plain.mean(axes, keepdims=True)) / np.sqrt(plain.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(out, jnp.maximum(plain, 0), atol=1e-3)
    assert ("bias" in variables["params"]["conv"]) == (norm == "none")


def test_an_up_block_is_cropped_to_the_shape_it_is_asked_for():
    x = normal(0, 2, 3, 4, 2)
    block = UpBlock(5)
    wide, variables = block.init_with_output(jax.random.key(0), x, train=False, mask=None, shape=(6, 8))
    narrow = block.apply(variables, x, train=False, mask=None, shape=(5, 7))
    np.testing.assert_array_equal(narrow, wide[:, :5, :7])


@pytest.mark.parametrize(("size", "positions"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (8, 3)])
def test_logits_are_averaged_over_positions(size, positions):
    x = normal(0, 2, size, 4, 3)
    logits, variables = LogitConv(2).init_with_output(jax.random.key(0), x)
    missing = max(3 - size, 0)
    padded = jnp.pad(x, ((0, 0), (missing // 2, missing - missing // 2), (0, 0), (0, 0)))
    maps = conv(padded, variables["params"]["conv"]["kernel"], 2, 0)
    assert maps.shape == (2, positions, 1, 2)
    np.testing.assert_allclose(logits, maps.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_a_condition_becomes_constant_channels():
    images, condition = normal(0, 2, 3, 4, 5, 1), jnp.array([[0.0, 1.0], [2.0, 3.0]])
    together = with_condition(images, condition)
    np.testing.assert_array_equal(together[..., :1], images)
    np.testing.assert_array_equal(together[..., 1:], jnp.broadcast_to(condition[:, None, None, None], (2, 3, 4, 5, 2)))
    assert with_condition(images, jnp.zeros((2, 0))).shape == images.shape


@pytest.mark.parametrize("shape", [(2,), (3, 1), (2, 1, 1)])
def test_a_condition_of_another_shape_is_named(shape):
    with pytest.raises(ValueError, match=rf"condition has shape \({shape[0]},.*, expected \(2, K\)"):
        with_condition(jnp.zeros((2, 4, 4, 1)), jnp.zeros(shape))
