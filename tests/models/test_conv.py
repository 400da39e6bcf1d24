import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from eqpool.models.conv import Conv3D, UpsampleConv3D, conv3d, depth_to_space, max_pool3d, upsample_conv3d

# shape with channels, features, kernel, strides, padding
CASES = [
    ((2, 9, 8, 7, 1), 3, (7, 7, 7), 2, 3),
    ((2, 8, 9, 10, 1), 3, (7, 7, 7), 2, 3),
    ((2, 5, 6, 7, 6), 4, (3, 3, 3), 1, 1),
    ((2, 5, 6, 7, 6), 4, (3, 3, 3), 2, 1),
    ((2, 6, 5, 4, 6), 4, (3, 3, 3), 2, "SAME"),
    ((1, 6, 6, 6, 2), 5, (4, 4, 4), 2, 1),
    ((1, 6, 5, 7, 5), 2, (2, 3, 1), (1, 2, 3), (1, 0, 2)),
    ((3, 3, 4, 3, 8), 2, (1, 1, 1), 1, 0),
    ((1, 3, 3, 3, 4), 2, (3, 3, 3), 1, "VALID"),
]


def normal(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)


def native(x, kernel, strides, padding):
    strides = (strides,) * 3 if isinstance(strides, int) else strides
    if not isinstance(padding, str):
        padding = [(p, p) for p in ((padding,) * 3 if isinstance(padding, int) else padding)]
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"), precision="highest"
    )


@pytest.mark.parametrize(("shape", "features", "taps", "strides", "padding"), CASES)
def test_value_and_gradients_are_those_of_the_native_convolution(shape, features, taps, strides, padding):
    x, kernel = normal(0, *shape), normal(1, *taps, shape[-1], features)
    expected, native_pullback = jax.vjp(lambda x, k: native(x, k, strides, padding), x, kernel)
    actual, pullback = jax.vjp(jax.jit(lambda x, k: conv3d(x, k, strides, padding)), x, kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    cotangent = normal(2, *expected.shape)
    for ours, theirs in zip(pullback(cotangent), native_pullback(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-4)


def test_gradient_of_a_gradient():
    x, kernel = normal(0, 1, 4, 4, 4, 2), normal(1, 3, 3, 3, 2, 2)

    def gradient_norm(conv):
        inner = jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 3))
        return jax.grad(lambda k: jnp.sum(inner(x, k) ** 2))(kernel)

    ours = gradient_norm(lambda x, k: conv3d(x, k, 1, 1))
    np.testing.assert_allclose(ours, gradient_norm(lambda x, k: native(x, k, 1, 1)), rtol=1e-3)


def test_bfloat16_is_rounded_once():
    x, kernel = normal(0, 2, 6, 6, 6, 8, dtype=jnp.bfloat16), normal(1, 3, 3, 3, 8, 4, dtype=jnp.bfloat16)
    out = conv3d(x, kernel, 1, 1)
    exact = native(x.astype(jnp.float32), kernel.astype(jnp.float32), 1, 1)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)
    gradients = jax.grad(lambda x, k: jnp.sum(conv3d(x, k, 1, 1).astype(jnp.float32)), (0, 1))(x, kernel)
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.bfloat16]


def training_graph(x, kernel):
    return jax.grad(lambda k: jnp.sum(max_pool3d(conv3d(x, k, 2, 3))))(kernel)


@pytest.mark.parametrize(("platform", "rank"), [("tpu", 5), ("cuda", 5), ("cpu", 4)])
def test_the_form_is_chosen_by_the_platform_lowered_for(platform, rank):
    arguments = normal(0, 2, 16, 16, 16, 1), normal(1, 7, 7, 7, 1, 4)
    text = jax.export.export(jax.jit(training_graph), platforms=[platform])(*arguments).mlir_module()
    operands = re.findall(r"stablehlo\.convolution.*?: \(tensor<([\dx]+)xf32>", text)
    assert {len(shape.split("x")) for shape in operands} == {rank}
    assert ("select_and_scatter" in text) == (platform != "cpu")


def test_gradient_in_an_unasked_for_input_is_not_computed():
    x, kernel = normal(0, 2, 16, 16, 16, 1), normal(1, 7, 7, 7, 1, 4)
    both = jax.grad(lambda x, k: jnp.sum(conv3d(x, k, 2, 3) ** 2), (0, 1))

    def flops(function):
        return jax.jit(function).lower(x, kernel).compile().cost_analysis()["flops"]

    kernel_only, everything = flops(lambda x, k: both(x, k)[1]), flops(both)
    # The convolution, its kernel's gradient and its input's gradient cost about the same each.
    assert kernel_only < 0.8 * everything


@pytest.mark.parametrize("shape", [(2, 7, 8, 9, 3), (1, 3, 3, 4, 1), (1, 11, 5, 6, 2)])
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_is_native_in_value_and_gradient(shape, ties):
    x = normal(0, *shape)
    if ties:
        x = jnp.round(x)

    def reduce_window(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 3, 1), (1, 2, 2, 2, 1), "VALID")

    expected, native_pullback = jax.vjp(reduce_window, x)
    actual, pullback = jax.vjp(jax.jit(max_pool3d), x)
    np.testing.assert_array_equal(actual, expected)
    cotangent = normal(1, *expected.shape)
    np.testing.assert_allclose(pullback(cotangent)[0], native_pullback(cotangent)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 1), (2, 3)])
def test_max_pool_of_other_windows(window, stride):
    x = normal(0, 1, 7, 8, 9, 2)
    windows, strides = (1, *(window,) * 3, 1), (1, *(stride,) * 3, 1)

    def reduce_window(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, windows, strides, "VALID")

    expected, native_pullback = jax.vjp(reduce_window, x)
    actual, pullback = jax.vjp(jax.jit(lambda x: max_pool3d(x, window, stride)), x)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_allclose(pullback(actual)[0], native_pullback(actual)[0], rtol=1e-6, atol=1e-6)


def test_depth_to_space_places_groups_by_offset():
    x = jnp.arange(2 * 8 * 3, dtype=jnp.float32).reshape(1, 2, 1, 1, 24)
    out = depth_to_space(x)
    assert out.shape == (1, 4, 2, 2, 3)
    np.testing.assert_array_equal(out[0, 3, 0, 1], x[0, 1, 0, 0, 15:18])


def test_upsampling_convolution_is_a_convolution_of_the_repeated_volume():
    x, kernel = normal(0, 2, 3, 4, 2, 5), normal(1, 3, 3, 3, 5, 3)
    doubled = x.repeat(2, 1).repeat(2, 2).repeat(2, 3)
    expected = native(doubled, kernel, 1, 1)
    np.testing.assert_allclose(upsample_conv3d(x, kernel), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
def test_layer_dtypes_and_bias(dtype):
    x = normal(0, 1, 4, 4, 4, 2)
    layer = Conv3D(3, (3, 1, 3), strides=(2, 1, 1), padding=(1, 0, 1), dtype=dtype)
    variables = layer.init(jax.random.key(0), x)
    params = {**variables["params"], "bias": jnp.array([0.0, 1.0, 2.0])}
    out, plain = layer.apply({"params": params}, x), layer.apply(variables, x)
    assert out.shape == (1, 2, 4, 4, 3) and out.dtype == (dtype or jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose((out - plain)[0, 0, 0, 0].astype(jnp.float32), [0.0, 1.0, 2.0], atol=0.02)
    assert UpsampleConv3D(3, dtype=dtype).init_with_output(jax.random.key(0), x)[0].shape == (1, 8, 8, 8, 3)


def test_kernel_initialiser_is_kaiming_fan_out():
    params = Conv3D(64).init(jax.random.key(0), jnp.zeros((1, 3, 3, 3, 32)))["params"]
    np.testing.assert_allclose(jnp.std(params["kernel"]), np.sqrt(2 / (27 * 64)), rtol=0.02)
    assert not params["bias"].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv3d(jnp.zeros((4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2))), r"\(4, 4, 4, 1\)"),
        (lambda: conv3d(jnp.zeros((1, 4, 4, 4, 2)), jnp.zeros((3, 3, 3, 1, 2))), r"\(3, 3, 3, 1, 2\)"),
        (lambda: conv3d(jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2), jnp.bfloat16)), "bfloat16"),
        (lambda: conv3d(jnp.zeros((1, 2, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2)), 1, 0), r"\(2, 4, 4\)"),
        (lambda: conv3d(jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2)), (1, 2)), "strides"),
        (lambda: conv3d(jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2)), 0), "strides"),
        (lambda: conv3d(jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2)), 1, -1), "padding"),
        (lambda: max_pool3d(jnp.zeros((1, 2, 4, 4, 1))), r"\(1, 2, 4, 4, 1\)"),
        (lambda: depth_to_space(jnp.zeros((1, 2, 2, 2, 9))), r"\(1, 2, 2, 2, 9\)"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
