"""The ITN against Tables 5 and 6, and what its residual form promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.models.itn import ITN

BRAIN = {"encoder": (8, 16, 32, 64), "bottleneck": (64, 64), "decoder": (32, 16, 8), "dropout": 0.5}
TINY = {"encoder": (4, 6), "bottleneck": (5,), "decoder": (4,)}
RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def images(*shape, seed=0):
    return jnp.tanh(jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32)))


# Everything runs under jit: op by op the same tests take minutes.
@functools.partial(jax.jit, static_argnums=0)
def initialise(model, x, condition=None):
    return model.init(RNGS, x, train=True, condition=condition)


@functools.partial(jax.jit, static_argnums=(0, 4))
def apply(model, variables, x, condition=None, train=False, mask=None, key=RNGS["dropout"]):
    options = {"train": train, "condition": condition, "mask": mask, "rngs": {"dropout": key}}
    return model.apply(variables, x, mutable=["batch_stats"], **options)


def gradient(model, variables, x):
    def loss(params):
        out, _ = apply(model, {**variables, "params": params}, x, train=True)
        return jnp.sum(out * images(*x.shape, seed=7))

    return jax.jit(jax.grad(loss))(variables["params"])


def layer_shapes(model, shape):
    """Output shapes of the layers, without batch, and the parameters: nothing is computed."""

    def outputs(x):
        variables = model.init(RNGS, x, train=False)
        options = {"capture_intermediates": True, "mutable": ["intermediates"]}
        return variables["params"], model.apply(variables, x, train=False, **options)[1]["intermediates"]

    params, found = jax.eval_shape(outputs, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    return params, {name: out["__call__"][0].shape[1:] for name, out in found.items() if isinstance(out, dict)}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_table_5():
    params, shapes = layer_shapes(ITN(), (28, 28, 1))
    assert shapes == {
        "encoder0": (28, 28, 16),
        "encoder1": (14, 14, 32),
        "encoder2": (7, 7, 64),
        "bottleneck0": (7, 7, 128),
        "bottleneck1": (7, 7, 64),
        "decoder0": (14, 14, 32),
        "decoder1": (28, 28, 16),
        "output": (28, 28, 1),
    }
    widths = [1, 16, 32, 64, 128, 64, 32, 16]
    pairs = zip(widths, widths[1:], strict=False)
    assert count(params) == sum(9 * a * b + 2 * b for a, b in pairs) + 9 * 16 + 1


def test_table_6():
    params, shapes = layer_shapes(ITN(**BRAIN), (64, 64, 64, 1))
    assert shapes == {
        "encoder0": (64, 64, 64, 8),
        "encoder1": (32, 32, 32, 16),
        "encoder2": (16, 16, 16, 32),
        "encoder3": (8, 8, 8, 64),
        "bottleneck0": (8, 8, 8, 64),
        "bottleneck1": (8, 8, 8, 64),
        "decoder0": (16, 16, 16, 32),
        "decoder1": (32, 32, 32, 16),
        "decoder2": (64, 64, 64, 8),
        "output": (64, 64, 64, 1),
    }
    widths = [1, 8, 16, 32, 64, 64, 64, 32, 16, 8]
    pairs = zip(widths, widths[1:], strict=False)
    assert count(params) == sum(27 * a * b + 2 * b for a, b in pairs) + 27 * 8 + 1


@pytest.mark.parametrize("shape", [(25, 19, 1), (7, 30, 2), (1, 1, 1), (9, 6, 13, 1)])
def test_any_size_comes_back(shape):
    out = jax.eval_shape(lambda x: ITN(**TINY).init_with_output(RNGS, x, train=True)[0], jnp.zeros((2, *shape)))
    assert out.shape == (2, *shape) and out.dtype == jnp.float32


def test_skips_are_added():
    model, x = ITN(**TINY), images(2, 9, 8, 1)
    variables = initialise(model, x)
    params = {**variables["params"]}
    params["decoder0"] = jax.tree.map(jnp.zeros_like, params["decoder0"])
    options = {"train": False, "capture_intermediates": True}
    out, state = model.apply({**variables, "params": params}, x, **options)
    skip = state["intermediates"]["encoder0"]["__call__"][0]
    summed = jax.lax.conv_general_dilated(
        skip, params["output"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(out, jnp.tanh(summed), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "train", "dtype"),
    [((2, 9, 8, 1), True, jnp.float32), ((2, 9, 8, 1), False, jnp.bfloat16), ((2, 5, 4, 7, 1), True, jnp.bfloat16)],
)
def test_the_residual_form_starts_as_the_identity(shape, train, dtype):
    model, x = ITN(**TINY, dropout=0.5, residual=True, dtype=dtype), images(*shape).at[0, :2].set(-1.0).at[0, 2].set(1)
    condition = jnp.eye(2)
    out, _ = apply(model, initialise(model, x, condition), x, condition, train)
    np.testing.assert_array_equal(out, x)


def test_the_residual_form_can_change_the_background_at_once():
    model, x = ITN(**TINY, residual=True), images(2, 9, 8, 1).at[0].set(-1.0)
    variables = initialise(model, x)
    bias = {**variables["params"]["output"], "bias": jnp.array([0.5])}
    changed, _ = apply(model, {**variables, "params": {**variables["params"], "output": bias}}, x)
    step = np.tanh(0.5)
    np.testing.assert_allclose(changed, (1 - step) * x + step, atol=1e-6)
    gradients = gradient(model, variables, x)
    assert all(jnp.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(gradients["output"]))
    below = jax.tree.leaves({name: leaf for name, leaf in gradients.items() if name != "output"})
    assert not any(leaf.any() for leaf in below)  # until the last convolution has left 0


@pytest.mark.parametrize("bias", [-4.0, 4.0])
@pytest.mark.parametrize("residual", [True, False])
def test_the_output_stays_in_its_range(residual, bias):
    model, x = ITN(**TINY, residual=residual), images(2, 9, 8, 1).at[0].set(-1.0).at[1, 0].set(1.0)
    variables = initialise(model, x)
    output = {**variables["params"]["output"], "bias": jnp.array([bias])}
    out, _ = apply(model, {**variables, "params": {**variables["params"], "output": output}}, x)
    assert jnp.abs(out).max() <= 1 and jnp.sign(bias) * out.mean() > 0.5


@pytest.mark.parametrize(
    ("shape", "options"), [((2, 9, 8, 1), {}), ((2, 5, 6, 4, 1), {"dropout": 0.5, "dtype": jnp.bfloat16})]
)
def test_every_parameter_has_a_gradient(shape, options):
    model, x = ITN(**TINY, **options), images(*shape)
    gradients = gradient(model, initialise(model, x), x)
    for leaf in jax.tree.leaves(gradients):
        assert leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 0


def test_a_condition_changes_the_output_and_none_is_an_empty_one():
    model, x = ITN(**TINY), images(2, 9, 8, 1)
    none, empty = initialise(model, x), initialise(model, x, jnp.zeros((2, 0)))
    jax.tree.map(np.testing.assert_array_equal, none, empty)
    np.testing.assert_array_equal(apply(model, none, x)[0], apply(model, none, x, jnp.zeros((2, 0)))[0])
    variables = initialise(model, x, jnp.eye(2))
    assert variables["params"]["encoder0"]["conv"]["kernel"].shape == (3, 3, 3, 4)
    one, swapped = (apply(model, variables, x, condition)[0] for condition in (jnp.eye(2), jnp.eye(2)[::-1]))
    assert jnp.abs(one - swapped).max() > 1e-2


def test_statistics_move_in_training_only():
    model, x = ITN(**TINY), 3 * images(2, 9, 8, 1)
    variables = initialise(model, x)
    _, trained = apply(model, variables, x, train=True)
    _, evaluated = apply(model, variables, x)
    jax.tree.map(np.testing.assert_array_equal, evaluated["batch_stats"], variables["batch_stats"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), trained["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))
    np.testing.assert_allclose(apply(model, variables, x)[0][:1], apply(model, variables, x[:1])[0], atol=1e-5)


def test_masked_rows_change_nothing():
    model, x = ITN(**TINY), images(3, 9, 8, 1)
    variables = initialise(model, x)
    out, state = apply(model, variables, x[:2], train=True)
    masked, masked_state = apply(model, variables, x, train=True, mask=jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(masked[:2], out, atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), masked_state, state)


def test_dropout_follows_its_key_in_training_only():
    model, x = ITN(**TINY, dropout=0.5), images(2, 9, 8, 1)
    variables = initialise(model, x)
    keys = jax.random.key(2), jax.random.key(3)
    one, other = (apply(model, variables, x, train=True, key=key)[0] for key in keys)
    assert jnp.abs(one - other).max() > 1e-2
    one, other = (apply(model, variables, x, key=key)[0] for key in keys)
    np.testing.assert_array_equal(one, other)


def test_bfloat16_stays_near_float32():
    model, x = ITN(**TINY), images(2, 9, 8, 1)
    variables = initialise(model, x)
    half, state = apply(ITN(**TINY, dtype=jnp.bfloat16), variables, x, train=True)
    assert {leaf.dtype for leaf in jax.tree.leaves((half, state))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(half, apply(model, variables, x, train=True)[0], atol=0.1)


def test_a_volume_of_one_slice_is_an_image():
    model, x = ITN(**TINY, dropout=0.25), images(2, 9, 8, 1)
    variables = initialise(model, x)

    def lift(leaf):
        return jnp.zeros((3, *leaf.shape)).at[1].set(leaf) if leaf.ndim == 4 else leaf

    flat, _ = apply(model, variables, x)
    deep, _ = apply(model, jax.tree.map(lift, variables), x[:, None])
    np.testing.assert_allclose(deep[:, 0], flat, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (ITN(decoder=(32, 8)), (2, 8, 8, 1), r"decoder must be \(32, 16\).*got \(32, 8\)"),
        (ITN(decoder=(32,)), (2, 8, 8, 1), r"got \(32,\)"),
        (ITN(), (2, 8, 1), r"\(2, 8, 1\)"),
    ],
)
def test_bad_arguments_are_named(model, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: model.init(RNGS, x, train=True), jnp.zeros(shape))
