import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from eqpool.models import conv_planes
from eqpool.models.conv import Conv, conv, kaiming_fan_in, lecun_fan_in
from eqpool.models.conv_kernel_gradient import kernel_gradient_by_plane
from eqpool.models.conv_phases import phases_forward, phases_kernel_gradient
from eqpool.models.resolution import max_pool

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
    # Few features: the depth taps are folded into them.
    ((2, 5, 6, 7, 6), 1, (3, 3, 3), 1, 1),
    ((2, 6, 5, 7, 5), 2, (4, 3, 2), (1, 2, 3), (2, 0, 1)),
    # Images.
    ((2, 9, 8, 1), 3, (7, 7), 2, 3),
    ((2, 5, 6, 6), 4, (3, 2), (1, 2), "SAME"),
]


def normal(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)


def native(x, kernel, strides, padding):
    rank = x.ndim - 2
    strides = (strides,) * rank if isinstance(strides, int) else strides
    if not isinstance(padding, str):
        padding = [(p, p) for p in ((padding,) * rank if isinstance(padding, int) else padding)]
    axes = "DHW"[-rank:]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, precision="highest")


@pytest.mark.parametrize(("shape", "features", "taps", "strides", "padding"), CASES)
def test_value_and_gradients_are_those_of_the_native_convolution(shape, features, taps, strides, padding):
    check_against_native(shape, features, taps, strides, padding)


@pytest.mark.parametrize(
    ("shape", "features", "taps", "strides", "padding"),
    [
        ((2, 6, 7, 8, 6), 4, (3, 3, 3), 1, 1),
        ((1, 5, 4, 6, 5), 9, (3, 2, 1), 1, (1, 0, 2)),
        ((2, 5, 4, 6, 2), 7, (1, 3, 2), 1, (0, 2, 1)),
        ((2, 6, 7, 8, 6), 4, (3, 3, 3), 2, 1),
        ((1, 8, 6, 9, 5), 3, (2, 3, 1), (2, 3, 2), (1, 0, 2)),
    ],
)
def test_kernel_gradient_plane_by_plane(shape, features, taps, strides, padding):
    with jax.enable_x64(True):
        x, kernel = (
            normal(seed, *size, dtype=np.float64) for seed, size in ((0, shape), (1, (*taps, shape[-1], features)))
        )
        expected, pullback = jax.vjp(lambda k: native(x, k, strides, padding), kernel)
        cotangent = normal(2, *expected.shape, dtype=np.float64)
        strides, padding = ((one,) * 3 if isinstance(one, int) else one for one in (strides, padding))
        actual = jax.jit(
            lambda x, cotangent: kernel_gradient_by_plane(
                x, kernel, cotangent, strides=strides, pads=[(pad, pad) for pad in padding]
            )
        )(x, cotangent)
        np.testing.assert_allclose(actual, pullback(cotangent)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "features", "taps", "strides", "padding"),
    [
        ((2, 9, 8, 7, 1), 3, (7, 7, 7), 2, 3),
        ((2, 8, 9, 10, 2), 3, (5, 6, 5), 2, 0),
        ((1, 9, 10, 11, 3), 4, (3, 4, 2), (1, 3, 2), (2, 1, 0)),
    ],
)
def test_phase_by_phase(shape, features, taps, strides, padding):
    with jax.enable_x64(True):
        x = normal(0, *shape, dtype=np.float64)
        kernel = normal(1, *taps, shape[-1], features, dtype=np.float64)
        expected, pullback = jax.vjp(lambda k: native(x, k, strides, padding), kernel)
        cotangent = normal(2, *expected.shape, dtype=np.float64)
        strides, padding = ((one,) * 3 if isinstance(one, int) else one for one in (strides, padding))
        form = {"strides": strides, "pads": [(pad, pad) for pad in padding]}
        actual, gradient = jax.jit(
            lambda x, cotangent: (
                phases_forward(x, kernel, **form),
                phases_kernel_gradient(x, kernel, cotangent, **form),
            )
        )(x, cotangent)
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(gradient, pullback(cotangent)[0], rtol=1e-12, atol=1e-12)


# Large enough for the kernel's gradient to go by plane, at stride 1 and 2.
@pytest.mark.parametrize(("shape", "strides"), [((1, 32, 33, 32, 16), 1), ((1, 64, 64, 64, 16), 2)])
def test_large_volumes(shape, strides):
    x, kernel = normal(0, *shape), normal(1, 3, 3, 3, 16, 8)
    assert conv_planes._goes_by_plane(x, kernel, (strides,) * 3)
    expected, native_pullback = jax.vjp(lambda k: native(x, k, strides, 1), kernel)
    _, pullback = jax.vjp(jax.jit(lambda k: conv(x, k, strides, 1)), kernel)
    cotangent = normal(2, *expected.shape)
    theirs = native_pullback(cotangent)[0]
    np.testing.assert_allclose(pullback(cotangent)[0], theirs, rtol=1e-4, atol=1e-5 * float(jnp.abs(theirs).max()))


def check_against_native(shape, features, taps, strides, padding):
    x, kernel = normal(0, *shape), normal(1, *taps, shape[-1], features)
    expected, native_pullback = jax.vjp(lambda x, k: native(x, k, strides, padding), x, kernel)
    actual, pullback = jax.vjp(jax.jit(lambda x, k: conv(x, k, strides, padding)), x, kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    cotangent = normal(2, *expected.shape)
    for ours, theirs in zip(pullback(cotangent), native_pullback(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize(("channels", "features"), [(2, 2), (5, 1), (5, 3)])
def test_gradient_of_a_gradient(channels, features):
    x, kernel = normal(0, 1, 4, 4, 4, channels), normal(1, 3, 3, 3, channels, features)

    def gradient_norm(convolve):
        inner = jax.grad(lambda x, k: jnp.sum(convolve(x, k) ** 3))
        return jax.grad(lambda k: jnp.sum(inner(x, k) ** 2))(kernel)

    ours = gradient_norm(lambda x, k: conv(x, k, 1, 1))
    theirs = gradient_norm(lambda x, k: native(x, k, 1, 1))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * jnp.abs(theirs).max())


def test_bfloat16_is_rounded_once():
    x, kernel = normal(0, 2, 6, 6, 6, 8, dtype=jnp.bfloat16), normal(1, 3, 3, 3, 8, 4, dtype=jnp.bfloat16)
    out = conv(x, kernel, 1, 1)
    exact = native(x.astype(jnp.float32), kernel.astype(jnp.float32), 1, 1)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)
    gradients = jax.grad(lambda x, k: jnp.sum(conv(x, k, 1, 1).astype(jnp.float32)), (0, 1))(x, kernel)
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.bfloat16]


def training_graph(x, kernel):
    second = jnp.ones((3, 3, 3, kernel.shape[-1], 8))
    return jax.grad(lambda k: jnp.sum(max_pool(conv(conv(x, k, 2, 3), second, 1, 1))))(kernel)


@pytest.mark.parametrize(("platform", "rank"), [("tpu", 5), ("cuda", 5), ("cpu", 4)])
def test_the_form_is_chosen_by_the_platform_lowered_for(platform, rank):
    arguments = normal(0, 2, 16, 16, 16, 1), normal(1, 7, 7, 7, 1, 4)
    text = jax.export.export(jax.jit(training_graph), platforms=[platform])(*arguments).mlir_module()
    operands = re.findall(r"stablehlo\.convolution.*?: \(tensor<([\dx]+)xf32>", text)
    assert {len(shape.split("x")) for shape in operands} == {rank}
    assert ("select_and_scatter" in text) == (platform != "cpu")


def test_gradient_in_an_unasked_for_input_is_not_computed():
    x, kernel = normal(0, 2, 16, 16, 16, 1), normal(1, 7, 7, 7, 1, 4)
    both = jax.grad(lambda x, k: jnp.sum(conv(x, k, 2, 3) ** 2), (0, 1))

    def flops(function):
        return jax.jit(function).lower(x, kernel).compile().cost_analysis()["flops"]

    kernel_only, everything = flops(lambda x, k: both(x, k)[1]), flops(both)
    # The convolution, its kernel's gradient and its input's gradient cost about the same each.
    assert kernel_only < 0.8 * everything


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
def test_layer_dtypes_and_bias(dtype):
    x = normal(0, 1, 4, 4, 4, 2)
    layer = Conv(3, (3, 1, 3), strides=(2, 1, 1), padding=(1, 0, 1), dtype=dtype)
    variables = layer.init(jax.random.key(0), x)
    params = {**variables["params"], "bias": jnp.array([0.0, 1.0, 2.0])}
    out, plain = layer.apply({"params": params}, x), layer.apply(variables, x)
    assert out.shape == (1, 2, 4, 4, 3) and out.dtype == (dtype or jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose((out - plain)[0, 0, 0, 0].astype(jnp.float32), [0.0, 1.0, 2.0], atol=0.02)


def test_layer_serves_images_too():
    x = normal(0, 2, 5, 6, 3)
    out, variables = Conv(4, 3, 2, 1).init_with_output(jax.random.key(0), x)
    expected = native(x, variables["params"]["kernel"], 2, 1)
    assert variables["params"]["kernel"].shape == (3, 3, 3, 4)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "variance"),
    [
        ({}, 2 / (27 * 64)),
        ({"kernel_init": kaiming_fan_in}, 2 / (27 * 32)),
        ({"kernel_init": lecun_fan_in}, 1 / (27 * 32)),
    ],
)
def test_kernel_initialisers(options, variance):
    params = Conv(64, **options).init(jax.random.key(0), jnp.zeros((1, 3, 3, 3, 32)))["params"]
    np.testing.assert_allclose(jnp.std(params["kernel"]), np.sqrt(variance), rtol=0.02)
    assert not params["bias"].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv(jnp.zeros((4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2))), r"\(4, 4, 4, 1\)"),
        (lambda: conv(jnp.zeros((1, 4, 4, 4, 2)), jnp.zeros((3, 3, 3, 1, 2))), r"\(3, 3, 3, 1, 2\)"),
        (lambda: conv(jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2), jnp.bfloat16)), "bfloat16"),
        (lambda: conv(jnp.zeros((1, 2, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2)), 1, 0), r"\(2, 4, 4\)"),
        (lambda: conv(jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2)), (1, 2)), "strides"),
        (lambda: conv(jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2)), 0), "strides"),
        (lambda: conv(jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2)), 1, -1), "padding"),
        (lambda: conv(jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1, 2)), (1, 2, 1)), "strides.* 2 of them"),
        (lambda: conv(jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2))), r"\(1, 4, 4, 1\)"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
