import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from eqpool.models.conv import conv
from eqpool.models.resolution import UpsampleConv, depth_to_space, max_pool, upsample_conv


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize("shape", [(2, 7, 8, 9, 3), (1, 3, 3, 4, 1), (1, 11, 5, 6, 2), (2, 7, 8, 3)])
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_is_native_in_value_and_gradient(shape, ties):
    x = normal(0, *shape)
    if ties:
        x = jnp.round(x)

    def reduce_window(x):
        windows, strides = ((1, *(size,) * (x.ndim - 2), 1) for size in (3, 2))
        return lax.reduce_window(x, -jnp.inf, lax.max, windows, strides, "VALID")

    expected, native_pullback = jax.vjp(reduce_window, x)
    actual, pullback = jax.vjp(jax.jit(max_pool), x)
    np.testing.assert_array_equal(actual, expected)
    cotangent = normal(1, *expected.shape)
    np.testing.assert_allclose(pullback(cotangent)[0], native_pullback(cotangent)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 1, 0), (2, 3, 1), (3, 2, 1)])
def test_max_pool_of_other_windows(window, stride, padding):
    x = normal(0, 1, 7, 8, 9, 2) - 3.0  # below zero, which a padding of zeros would show
    windows, strides = (1, *(window,) * 3, 1), (1, *(stride,) * 3, 1)
    pads = ((0, 0), *((padding, padding),) * 3, (0, 0))

    def reduce_window(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, windows, strides, pads)

    expected, native_pullback = jax.vjp(reduce_window, x)
    actual, pullback = jax.vjp(jax.jit(lambda x: max_pool(x, window, stride, padding)), x)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_allclose(pullback(actual)[0], native_pullback(actual)[0], rtol=1e-6, atol=1e-6)


def test_depth_to_space_places_groups_by_offset():
    x = jnp.arange(2 * 8 * 3, dtype=jnp.float32).reshape(1, 2, 1, 1, 24)
    out = depth_to_space(x)
    assert out.shape == (1, 4, 2, 2, 3)
    np.testing.assert_array_equal(out[0, 3, 0, 1], x[0, 1, 0, 0, 15:18])


def test_depth_to_space_of_images_places_groups_by_offset():
    x = jnp.arange(2 * 8, dtype=jnp.float32).reshape(1, 2, 1, 8)
    out = depth_to_space(x)
    assert out.shape == (1, 4, 2, 2)
    np.testing.assert_array_equal(out[0, 3, 0], x[0, 1, 0, 4:6])


def doubled(x, interpolation):
    """The readable form: PyTorch's nearest and (bi-, tri-)linear upsampling with align_corners=False."""
    shape = (x.shape[0], *(2 * size for size in x.shape[1:-1]), x.shape[-1])
    return jax.image.resize(x, shape, interpolation, antialias=False)


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 2, 5), (1, 1, 2, 1, 3), (2, 3, 5, 4), (1, 1, 1, 2)])
def test_upsampling_convolution_is_a_zero_padded_convolution_of_the_doubled_image(shape, interpolation):
    x, kernel = normal(0, *shape), normal(1, *(3,) * (len(shape) - 2), shape[-1], 3)
    slow = jax.jit(lambda x, k: conv(doubled(x, interpolation), k, 1, 1))
    fast = jax.jit(functools.partial(upsample_conv, interpolation=interpolation))
    expected, slow_pullback = jax.vjp(slow, x, kernel)
    actual, pullback = jax.vjp(fast, x, kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=5e-5)
    cotangent = normal(2, *expected.shape)
    for ours, theirs in zip(pullback(cotangent), slow_pullback(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-4)


def test_linear_doubling_lies_between_its_neighbours():
    centre = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    ramp = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (1, 4, 4, 1))
    rows = upsample_conv(ramp, centre, "linear")[0, :, 3, 0]
    np.testing.assert_allclose(rows, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
def test_layer_dtypes(dtype, interpolation):
    x = normal(0, 1, 4, 3, 2)
    layer = UpsampleConv(3, interpolation, dtype=dtype)
    out, variables = layer.init_with_output(jax.random.key(0), x)
    assert out.shape == (1, 8, 6, 3) and out.dtype == (dtype or jnp.float32)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == {
        "params": {"kernel": ((3, 3, 2, 3), jnp.float32)}
    }
    exact = upsample_conv(x, variables["params"]["kernel"], interpolation)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.02 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: max_pool(jnp.zeros((1, 2, 4, 4, 1))), r"\(1, 2, 4, 4, 1\)"),
        (lambda: max_pool(jnp.zeros((4, 4, 4))), r"\(4, 4, 4\)"),
        (lambda: max_pool(jnp.zeros((1, 4, 4, 1)), 2, 2, 2), "padding .*window=2, got 2"),
        (lambda: depth_to_space(jnp.zeros((1, 2, 2, 2, 9))), r"8 channels.*\(1, 2, 2, 2, 9\)"),
        (lambda: depth_to_space(jnp.zeros((1, 2, 2, 9))), r"4 channels.*\(1, 2, 2, 9\)"),
        (lambda: upsample_conv(jnp.zeros((1, 2, 2, 1)), jnp.zeros((3, 3, 1, 1)), "cubic"), "'cubic'"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
