"""The discriminator against Tables 5 and 6."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.models.discriminator import Discriminator

BRAIN = (32, 64, 128, 256, 256)
TINY = Discriminator((4, 6, 5))
RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def images(*shape, seed=0):
    return jnp.tanh(jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32)))


# Everything runs under jit: op by op the same tests take minutes.
@functools.partial(jax.jit, static_argnums=0)
def initialise(model, x):
    return model.init(RNGS, x, train=True)


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(model, variables, x, train=False, key=RNGS["dropout"]):
    return model.apply(variables, x, train=train, rngs={"dropout": key})


def layer_shapes(model, shape):
    def outputs(x):
        variables = model.init(RNGS, x, train=False)
        options = {"capture_intermediates": True, "mutable": ["intermediates"]}
        return variables, model.apply(variables, x, train=False, **options)[1]["intermediates"]

    variables, found = jax.eval_shape(outputs, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    last = {"before_mean": found["logit"]["conv"]["__call__"][0].shape[1:]}
    return variables, {k: out["__call__"][0].shape[1:] for k, out in found.items() if isinstance(out, dict)} | last


@pytest.mark.parametrize(
    ("channels", "side", "rank", "sizes"),
    [((32, 64, 128, 256), 28, 2, (28, 14, 7, 4)), (BRAIN, 64, 3, (64, 32, 16, 8, 4))],
    ids=["table_5", "table_6"],
)
def test_tables(channels, side, rank, sizes):
    variables, shapes = layer_shapes(Discriminator(channels), (*(side,) * rank, 1))
    rows = zip(sizes, channels, strict=True)
    expected = {f"layer{index}": (*(size,) * rank, width) for index, (size, width) in enumerate(rows)}
    assert shapes == expected | {"before_mean": (*(1,) * rank, 1), "logit": (1,)}
    # Instance norm has no parameters, and the convolutions before it no bias.
    pairs = zip((1, *channels), (*channels, 1), strict=True)
    parameters = sum(3**rank * a * b for a, b in pairs) + channels[0] + 1
    assert set(variables) == {"params"}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == parameters


def test_dropout_is_after_the_last_layer_alone():
    def dropped(layer):
        options = {"capture_intermediates": True, "rngs": {"dropout": jax.random.key(3)}}
        x = images(2, 12, 12, 1)
        _, state = TINY.apply(initialise(TINY, x), x, train=True, **options)
        return float(jnp.mean(state["intermediates"][layer]["__call__"][0] == 0))

    # A ReLU after a norm zeroes about half.
    assert dropped("layer1") < 0.6 < dropped("layer2")


def test_one_logit_an_image_and_nothing_of_its_neighbours():
    x = images(3, 12, 9, 1)
    variables = initialise(TINY, x)
    logits = apply(TINY, variables, x)
    assert logits.shape == (3,) and logits.dtype == jnp.float32
    np.testing.assert_allclose(apply(TINY, variables, x[1:2]), logits[1:2], atol=1e-5)
    np.testing.assert_array_equal(apply(TINY, variables, x, False, jax.random.key(5)), logits)
    assert jnp.abs(apply(TINY, variables, x, True, jax.random.key(5)) - logits).max() > 1e-3


def test_contrast_matters_but_not_to_every_layer():
    x = images(2, 12, 12, 1)
    variables = initialise(TINY, x)
    assert jnp.abs(apply(TINY, variables, 0.5 * x + 0.3) - apply(TINY, variables, x)).max() > 1e-3

    params = {**variables["params"]}
    params["layer1"] = jax.tree.map(lambda leaf: 3 * leaf, params["layer1"])  # which the instance norm undoes
    scaled = apply(TINY, {"params": params}, x)
    np.testing.assert_allclose(scaled, apply(TINY, variables, x), atol=1e-3)


@pytest.mark.parametrize(("shape", "dtype"), [((2, 13, 10, 1), jnp.float32), ((2, 7, 9, 6, 1), jnp.bfloat16)])
def test_every_parameter_and_the_image_have_gradients(shape, dtype):
    model, x = Discriminator(TINY.channels, dtype=dtype), images(*shape)
    variables = initialise(model, x)

    def loss(variables, x):
        return jnp.sum(apply(model, variables, x, True) * jnp.array([1.0, 0.5]))

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(variables, x)):
        assert leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 0


def test_a_constant_image_has_a_finite_gradient():
    x = jnp.full((2, 12, 12, 1), -1.0)
    variables = initialise(TINY, x)
    gradients = jax.grad(lambda v, x: apply(TINY, v, x).sum(), (0, 1))(variables, x)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_volume_of_one_slice_is_an_image():
    x = images(2, 12, 9, 1)
    variables = initialise(TINY, x)
    lifted = jax.tree.map(
        lambda leaf: jnp.zeros((3, *leaf.shape)).at[1].set(leaf) if leaf.ndim == 4 else leaf, variables
    )
    np.testing.assert_allclose(apply(TINY, lifted, x[:, None]), apply(TINY, variables, x), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 5, 1, 1), (2, 32, 32, 32, 1), (2, 64, 50, 1)])
def test_sizes_that_do_not_end_in_one_position(shape):
    logits = jax.eval_shape(
        lambda x: Discriminator(BRAIN[-3:]).init_with_output(RNGS, x, train=True)[0], jnp.zeros(shape)
    )
    assert logits.shape == (2,)


@pytest.mark.parametrize(
    ("shape", "message"), [((2, 16, 16, 16, 1), r"at least 17 .*\(2, 16, 16, 16, 1\)"), ((2, 28, 28), r"\(2, 28, 28\)")]
)
def test_bad_arguments_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: Discriminator(BRAIN).init(RNGS, x, train=True), jnp.zeros(shape))


def test_without_its_norm_it_sees_an_images_own_contrast():
    """Instance norm takes most of a change of brightness and contrast away: what two scanners differ in."""

    def seen(norm) -> float:
        model, x = Discriminator(TINY.channels, dropout=0.0, norm=norm), images(4, 24, 24, 1)
        variables = model.init(RNGS, x, train=False)
        logits, brighter = (model.apply(variables, image, train=False) for image in (x, 1.5 * x + 0.2))
        return float(np.std(brighter - logits) + np.abs(np.mean(brighter - logits))) / float(np.std(logits))

    assert seen("none") > 2 * seen("instance")
