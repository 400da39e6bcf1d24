"""The ISTN puts its parts together in the paper's order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eqpool.models.istn import ISTN
from eqpool.models.itn import ITN
from eqpool.models.stn import AffineSTN, BSplineSTN

SIZES = {"encoder": (4, 6), "bottleneck": (5,), "decoder": (4,), "widths": (2, 3, 4), "spacing": 4}
RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
STNS = {"affine": AffineSTN(SIZES["widths"]), "bspline": BSplineSTN(4, widths=SIZES["widths"])}


def images(*shape, seed=0):
    return jnp.tanh(jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32)))


# Everything runs under jit: op by op the same tests take minutes.
@functools.partial(jax.jit, static_argnums=0)
def initialise(model, x):
    """Variables, with a deformation that is not the identity."""
    variables = model.init(RNGS, x, train=True)
    if "stn" in variables["params"]:
        bias = variables["params"]["stn"]["trunk"]["parameters"]["bias"]
        variables["params"]["stn"]["trunk"]["parameters"]["bias"] = jnp.sin(1.0 + jnp.arange(bias.size))
    return variables


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(model, variables, x, train=False, condition=None, mask=None):
    options = {"train": train, "condition": condition, "mask": mask, "rngs": {"dropout": RNGS["dropout"]}}
    return model.apply(variables, x, mutable=["batch_stats"], **options)


def part(variables, name):
    return {collection: tree[name] for collection, tree in variables.items()}


@pytest.mark.parametrize("shape", ["affine", "bspline"])
def test_appearance_first_then_shape_of_what_came_out(shape):
    model, x = ISTN(shape=shape, fill=-1.0, **SIZES), images(2, 9, 8, 1)
    variables = initialise(model, x)
    assert set(variables["params"]) == {"itn", "stn"}
    output, _ = apply(model, variables, x)
    itn = ITN(SIZES["encoder"], SIZES["bottleneck"], SIZES["decoder"])
    np.testing.assert_allclose(output.appearance, itn.apply(part(variables, "itn"), x, train=False), atol=1e-5)
    deformation = STNS[shape].apply(part(variables, "stn"), output.appearance, train=False)
    field = output.deformation.displacement((9, 8))
    np.testing.assert_allclose(field, deformation.displacement((9, 8)), atol=1e-4)
    np.testing.assert_allclose(output.image, deformation.warp(output.appearance, fill=-1.0), atol=1e-4)
    assert jnp.abs(field).max() > 0.1
    assert jnp.abs(output.image - deformation.warp(output.appearance, fill=1.0)).max() > 0.1


@pytest.mark.parametrize("shape", ["affine", "bspline"])
def test_shape_alone(shape):
    model, x = ISTN("none", shape, **SIZES), images(2, 9, 8, 1)
    variables = initialise(model, x)
    output, _ = apply(model, variables, x)
    assert set(variables["params"]) == {"stn"}
    np.testing.assert_array_equal(output.appearance, x)
    assert jnp.abs(output.image - x).max() > 0.1


def test_appearance_alone():
    model, x = ISTN("itn", "none", **SIZES), images(2, 9, 8, 1)
    variables = initialise(model, x)
    output, _ = apply(model, variables, x)
    assert set(variables["params"]) == {"itn"} and output.deformation is None
    np.testing.assert_array_equal(output.image, output.appearance)


@pytest.mark.parametrize("shape", ["none", "affine", "bspline"])
@pytest.mark.parametrize("size", [(2, 9, 8, 1), (2, 5, 6, 7, 1)])
def test_the_residual_form_starts_as_the_identity(size, shape):
    model, x = ISTN(shape=shape, residual=True, dropout=0.5, dtype=jnp.bfloat16, **SIZES), images(*size)
    variables = jax.jit(lambda x: model.init(RNGS, x, train=True))(x)
    np.testing.assert_array_equal(apply(model, variables, x, True)[0].image, x)


def test_both_parts_get_the_condition_the_mask_and_training():
    model, x = ISTN(**SIZES), images(3, 9, 8, 1)
    condition, mask = jnp.eye(3), jnp.array([1.0, 1.0, 0.0])
    variables = jax.jit(lambda x: model.init(RNGS, x, train=True, condition=condition))(x)
    assert variables["params"]["itn"]["encoder0"]["conv"]["kernel"].shape[2] == 4
    assert variables["params"]["stn"]["trunk"]["layer0"]["conv"]["kernel"].shape[2] == 4
    one, state = apply(model, variables, x, True, condition, mask)
    other, other_state = apply(model, variables, x.at[2].multiply(-0.5), True, condition, mask)
    np.testing.assert_allclose(one.image[:2], other.image[:2], atol=1e-4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), state, other_state)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_eight_devices_compute_what_one_does():
    model, x = ISTN(dropout=0.5, **SIZES), images(8, 9, 8, 1)
    variables = initialise(model, x)

    @jax.jit
    def loss_and_gradient(params, statistics, x):
        def loss(params):
            output, state = apply(model, {"params": params, "batch_stats": statistics}, x, True)
            return jnp.mean(jnp.square(output.image - 0.3)), state

        return jax.value_and_grad(loss, has_aux=True)(params)

    operands = variables["params"], variables["batch_stats"]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    replicated = jax.device_put(operands, NamedSharding(mesh, PartitionSpec()))
    expected, actual = loss_and_gradient(*operands, x), loss_and_gradient(*replicated, sharded)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-5), actual, expected)


@pytest.mark.parametrize(
    ("appearance", "shape", "message"),
    [("none", "none", "nothing to train"), ("unet", "affine", "'unet'"), ("itn", "rigid", "'rigid'")],
)
def test_bad_arguments_are_named(appearance, shape, message):
    with pytest.raises(ValueError, match=message):
        ISTN(appearance, shape).init(RNGS, jnp.zeros((2, 8, 8, 1)), train=False)
