"""The task models against Tables 5 and 6, as read in their docstrings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.models.task import AgeRegressor, ConvClassifier, make_task_model

RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
TINY = ConvClassifier(3, channels=(4, 6, 5))
NAMES = {"morpho_classifier": 3, "sex_classifier": 2, "age_regressor": 0}


def images(*shape, seed=0):
    return np.tanh(np.random.default_rng(seed).standard_normal(shape, np.float32))


# Everything runs under jit, and on the host in between: op by op the same tests take minutes.
@functools.partial(jax.jit, static_argnums=0)
def initialise(model, x):
    return model.init(RNGS, x, train=True)


@functools.partial(jax.jit, static_argnums=(0, 3))
def on_device(model, variables, x, train=False, mask=None, key=RNGS["dropout"]):
    options = {"train": train, "mask": mask, "rngs": {"dropout": key}}
    return model.apply(variables, x, mutable=["batch_stats"], **options)


def apply(*arguments):
    return jax.device_get(on_device(*arguments))


def lift(variables):
    """Kernels of images as kernels of volumes that look at one slice alone."""

    def lifted(leaf):
        return np.stack([np.zeros_like(leaf), leaf, np.zeros_like(leaf)]) if leaf.ndim == 4 else leaf

    return jax.tree.map(lifted, jax.device_get(variables))


def layer_shapes(model, shape):
    def outputs(x):
        variables = model.init(RNGS, x, train=False)
        options = {"capture_intermediates": True, "mutable": ["intermediates"]}
        return variables["params"], model.apply(variables, x, train=False, **options)[1]["intermediates"]

    params, found = jax.eval_shape(outputs, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    return params, {name: out["__call__"][0].shape[1:] for name, out in found.items() if isinstance(out, dict)}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_table_5_classifier():
    params, shapes = layer_shapes(make_task_model("morpho_classifier", 3), (28, 28, 1))
    expected = {"layer0": (28, 28, 16), "layer1": (14, 14, 32), "layer2": (7, 7, 64), "layer3": (4, 4, 128)}
    assert shapes == expected | {"logits": (3,)}
    convolutions = 9 * (16 + 16 * 32 + 32 * 64 + 64 * 128 + 128 * 3)
    assert count(params) == convolutions + 16 + 2 * (32 + 64 + 128) + 3


def test_table_6_sex_classifier():
    params, shapes = layer_shapes(make_task_model("sex_classifier", 2), (64, 64, 64, 1))
    widths, sides = (8, 16, 32, 64, 128, 128), (32, 16, 8, 4, 2, 1)
    rows = enumerate(zip(sides, widths, strict=True))
    assert shapes == {f"layer{i}": (*(side,) * 3, width) for i, (side, width) in rows} | {"logits": (2,)}
    pairs = zip((1, *widths), (*widths, 2), strict=True)
    assert count(params) == sum(125 * a * b for a, b in pairs) + 8 + 2 * sum(widths[1:]) + 2


def test_table_6_age_regressor():
    params, shapes = layer_shapes(make_task_model("age_regressor"), (64, 64, 64, 1))
    expected = {"conv0": (64, 64, 64, 8), "conv1": (32, 32, 32, 32)}
    assert shapes == expected | {"linear0": (128,), "linear1": (64,), "linear2": (32,), "age": (1,)}
    assert params["linear0"]["kernel"].shape == (32 * 16**3, 128)
    linear = 32 * 16**3 * 128 + 128 * 64 + 64 * 32 + 32 + (128 + 64 + 32 + 1)
    assert count(params) == 27 * 8 + 8 + 27 * 8 * 32 + 32 + linear


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 32, 1), (25, 30, 1), (5, 3, 7, 1), (1, 1, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_every_model_takes_every_size(name, shape):
    model = make_task_model(name, NAMES[name])
    out = jax.eval_shape(lambda x: model.init_with_output(RNGS, x, train=True)[0], jnp.zeros((2, *shape)))
    assert out.shape == ((2, NAMES[name]) if NAMES[name] else (2,)) and out.dtype == jnp.float32


def dropping_layers(name, x):
    """The layers whose values differ from those of their norm and ReLU."""
    model = make_task_model(name, NAMES[name])

    @jax.jit
    def outputs(x):
        options = {"capture_intermediates": True, "mutable": ["batch_stats", "intermediates"]}
        variables = model.init(RNGS, x, train=False)
        return model.apply(variables, x, train=True, rngs=RNGS, **options)[1]["intermediates"]

    found = jax.device_get(outputs(x))
    layers = {layer: out for layer, out in found.items() if layer.startswith("layer") and "norm" in out["rest"]}
    kept = {layer: np.maximum(out["rest"]["norm"]["__call__"][0], 0) for layer, out in layers.items()}
    return [layer for layer, out in layers.items() if np.abs(out["__call__"][0] - kept[layer]).max() > 1e-3]


@pytest.mark.parametrize(
    ("name", "layers"), [("morpho_classifier", ["layer3"]), ("sex_classifier", ["layer3", "layer4", "layer5"])]
)
def test_dropout_is_where_the_table_has_it(name, layers):
    assert dropping_layers(name, images(4, 20, 20, 1)) == layers


@pytest.mark.parametrize(("shape", "dtype"), [((4, 18, 20, 1), jnp.float32), ((4, 9, 8, 9, 1), jnp.bfloat16)])
def test_every_parameter_of_a_classifier_has_a_gradient(shape, dtype):
    model, x = ConvClassifier(3, channels=TINY.channels, dtype=dtype), images(*shape)
    variables = initialise(model, x)

    def loss(params):
        return jnp.sum(jnp.square(on_device(model, {**variables, "params": params}, x, True)[0]))

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"])):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all() and np.abs(leaf).max() > 0


def test_every_parameter_of_the_regressor_has_a_gradient():
    model, x = AgeRegressor(channels=(4, 6), hidden=(16, 8), dtype=jnp.bfloat16), images(3, 6, 9, 7, 1)
    variables = initialise(model, x)
    assert set(variables) == {"params"}

    def loss(params):
        return jnp.sum(jnp.square(on_device(model, {"params": params}, x)[0] - 50))

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"])):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all() and np.abs(leaf).max() > 0


def test_taps_of_the_sex_classifier_that_meet_only_padding_have_no_gradient():
    model = ConvClassifier(2, (3, 4), kernel_size=5, first_stride=2, dropout_layers=0, last_stride=1, last_padding=2)
    x = images(3, 4, 4, 1)  # 4 to 2 to 1
    variables = initialise(model, x)
    gradient = jax.jit(jax.grad(lambda p: on_device(model, {**variables, "params": p}, x)[0].sum()))(
        variables["params"]
    )
    reached = {name: np.abs(gradient[name]["conv"]["kernel"]).max((2, 3)) > 0 for name in ("layer1", "logits")}
    np.testing.assert_array_equal(reached["layer1"], np.outer([0, 0, 1, 1, 0], [0, 0, 1, 1, 0]) > 0)
    np.testing.assert_array_equal(reached["logits"], np.outer([0, 0, 1, 0, 0], [0, 0, 1, 0, 0]) > 0)


def test_statistics_move_in_training_only():
    x = 3 * images(4, 18, 20, 1)
    variables = initialise(TINY, x)
    _, trained = apply(TINY, variables, x, True)
    logits, evaluated = apply(TINY, variables, x)
    jax.tree.map(np.testing.assert_array_equal, evaluated["batch_stats"], variables["batch_stats"])
    moved = jax.tree.map(
        lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), trained["batch_stats"], variables["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))
    np.testing.assert_array_equal(apply(TINY, variables, x, False, None, jax.random.key(9))[0], logits)
    assert (apply(TINY, variables, x, True, None, jax.random.key(9))[0] != apply(TINY, variables, x, True)[0]).any()


def test_masked_rows_change_nothing():
    model, x = ConvClassifier(3, channels=(4, 6), dropout=0.0), images(3, 9, 8, 1)
    variables = initialise(model, x)
    out, state = apply(model, variables, x[:2], True)
    masked, masked_state = apply(model, variables, np.concatenate([x[:2], 9 * x[2:]]), True, np.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(masked[:2], out, atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), masked_state, state)


@pytest.mark.parametrize(
    "model", [TINY, AgeRegressor(channels=(4, 6), hidden=(16, 8))], ids=["classifier", "regressor"]
)
def test_a_volume_of_one_slice_is_an_image(model):
    x = images(4, 18, 20, 1)
    variables = initialise(model, x)
    np.testing.assert_allclose(apply(model, lift(variables), x[:, None])[0], apply(model, variables, x)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "num_classes", "message"),
    [
        ("classifier", 3, "got 'classifier'"),
        ("morpho_classifier", 0, "num_classes .* at least 2 for the morpho_classifier, got 0"),
        ("sex_classifier", 1, "got 1"),
        ("age_regressor", 2, "num_classes must be 0 .* got 2"),
    ],
)
def test_bad_names_and_classes_are_named(name, num_classes, message):
    with pytest.raises(ValueError, match=message):
        make_task_model(name, num_classes)


@pytest.mark.parametrize("name", NAMES)
def test_images_of_another_rank_are_named(name):
    with pytest.raises(ValueError, match=r"\(2, 28, 28\)"):
        model = make_task_model(name, NAMES[name])
        jax.eval_shape(lambda x: model.init(RNGS, x, train=True), jnp.zeros((2, 28, 28)))
