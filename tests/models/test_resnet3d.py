import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eqpool.models.resnet3d import Decoder3D, ResNet3D, minimum_size

TINY = {"channels": (4, 6), "blocks": (1, 1)}
SIDE = 12


def volumes(rows, side=SIDE, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((rows, side, side + 1, side), np.float32))


def parameter_count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def abstract_trunk(shape):
    model = ResNet3D()
    volume = jax.ShapeDtypeStruct((2, *shape), jnp.float32)

    def outputs(volume):
        variables = model.init(jax.random.key(0), volume, train=False)
        options = {"capture_intermediates": True, "mutable": ["intermediates"]}
        return variables, model.apply(variables, volume, train=False, **options)[1]["intermediates"]

    return jax.eval_shape(outputs, volume)


def test_published_trunk_has_its_published_parameters_and_shapes():
    variables, outputs = abstract_trunk((91, 109, 91))
    assert parameter_count(variables["params"]) == 517_936
    expected = {
        "stem": (2, 46, 55, 46, 16),
        "stage0_block1": (2, 22, 27, 22, 16),
        "stage1_block1": (2, 11, 14, 11, 16),
        "stage2_block1": (2, 6, 7, 6, 32),
        "stage3_block1": (2, 3, 4, 3, 64),
    }
    assert {name: outputs[name]["__call__"][0].shape for name in expected} == expected
    assert outputs["__call__"][0].shape == (2, 64)
    # in -> in -> out, and a strided shortcut wherever the grid is halved.
    params = variables["params"]
    assert params["stage3_block0"]["conv1"]["kernel"].shape == (3, 3, 3, 32, 32)
    assert params["stage3_block0"]["conv2"]["kernel"].shape == (3, 3, 3, 32, 64)
    strided = {name for name in params if "shortcut" in params[name]}
    assert strided == {"stage1_block0", "stage2_block0", "stage3_block0"}


# Everything runs under jit: op by op the same tests take minutes.
def initialise(model, operand):
    return jax.jit(lambda operand: model.init(jax.random.key(0), operand, train=True))(operand)


@functools.partial(jax.jit, static_argnums=0)
def features_and_statistics(model, variables, volume, mask=None):
    features, updates = model.apply(variables, volume, train=True, mask=mask, mutable=["batch_stats"])
    return features, updates["batch_stats"]


def assert_trees_close(actual, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


def test_masked_rows_change_neither_features_nor_statistics():
    model, volume = ResNet3D(**TINY), volumes(3)
    variables = initialise(model, volume)
    expected = features_and_statistics(model, variables, volume)
    padded = jnp.concatenate([volume, 100 * volumes(2, seed=1)])
    mask = jnp.array([True] * 3 + [False] * 2)
    features, statistics = features_and_statistics(model, variables, padded, mask)
    assert_trees_close((features[:3], statistics), expected, rtol=2e-4, atol=1e-5)


def test_masked_rows_do_not_change_the_decoder():
    model, latent = Decoder3D((9, 10, 7), (6, 4, 4)), jnp.asarray(volumes(1)[0, :5, 0, :6])
    variables = initialise(model, latent)
    expected = features_and_statistics(model, variables, latent[:3])
    mask = jnp.array([True] * 3 + [False] * 2)
    images, statistics = features_and_statistics(model, variables, latent.at[3:].multiply(100.0), mask)
    assert_trees_close((images[:3], statistics), expected, rtol=2e-4, atol=1e-5)


def test_evaluation_uses_running_statistics_and_changes_nothing():
    model, volume = ResNet3D(**TINY), volumes(4)
    variables = initialise(model, volume)
    evaluate = jax.jit(lambda volume: model.apply(variables, volume, train=False))
    together, alone = evaluate(volume), evaluate(volume[:1])
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


def loss_and_gradient(model):
    def loss(params, statistics, volume):
        features, _ = features_and_statistics(model, {"params": params, "batch_stats": statistics}, volume)
        return jnp.mean(jnp.square(features))

    return jax.jit(jax.value_and_grad(loss))


def test_rematerialisation_changes_neither_parameters_nor_gradients():
    plain, remat, volume = ResNet3D(**TINY), ResNet3D(**TINY, remat=True), volumes(2)
    variables = initialise(plain, volume)
    assert_trees_close(initialise(remat, volume), variables, rtol=1e-6)
    operands = variables["params"], variables["batch_stats"], volume
    expected = loss_and_gradient(plain)(*operands)
    assert_trees_close(loss_and_gradient(remat)(*operands), expected, rtol=1e-3, atol=1e-5)


def test_bfloat16_trunk_keeps_float32_parameters_statistics_and_features():
    model, volume = ResNet3D(**TINY, dtype=jnp.bfloat16), volumes(2)
    variables = initialise(model, volume)
    features, statistics = features_and_statistics(model, variables, volume)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((variables, features, statistics))}
    assert dtypes == {jnp.dtype("float32")}
    single, _ = features_and_statistics(ResNet3D(**TINY), variables, volume)
    np.testing.assert_allclose(features, single, atol=0.1 * float(jnp.std(single)) + 0.02)


def test_eight_devices_compute_what_one_does_without_gathering_volumes():
    model, volume = ResNet3D(**TINY), volumes(8)
    variables = initialise(model, volume)
    operands = variables["params"], variables["batch_stats"]
    function = loss_and_gradient(model)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(volume, NamedSharding(mesh, PartitionSpec("data")))
    replicated = jax.device_put(operands, NamedSharding(mesh, PartitionSpec()))
    assert_trees_close(function(*replicated, sharded), function(*operands, volume), rtol=2e-3, atol=1e-5)
    text = function.lower(*replicated, sharded).compile().as_text()
    assert "all-reduce" in text
    assert not re.findall(r"= \S+ (?:all-gather|all-to-all|collective-permute)[-\w]*\(", text)


@pytest.mark.parametrize("shape", [(50, 59, 48), (9, 16, 5)])
def test_decoder_shapes(shape):
    model, latent = Decoder3D(shape), jax.ShapeDtypeStruct((2, 64), jnp.float32)
    initialised = functools.partial(model.init_with_output, train=True)
    image, variables = jax.eval_shape(initialised, jax.random.key(0), latent)
    assert image.shape == (2, *shape) and image.dtype == jnp.float32
    assert variables["params"]["voxels"]["kernel"].shape == (3, 3, 3, 8, 8)


@pytest.mark.parametrize(("stages", "least"), [(1, 5), (2, 9), (4, 21)])
def test_smallest_volume_is_accepted_and_one_less_is_named(stages, least):
    assert minimum_size(stages) == least
    model = ResNet3D(channels=(2,) * stages, blocks=(1,) * stages)

    def features(side):
        volume = jax.ShapeDtypeStruct((2, 30, side, 30), jnp.float32)
        return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=True)[0], volume)

    assert features(least).shape == (2, 2)
    with pytest.raises(ValueError, match=rf"at least {least} .*, 30, {least - 1}, 30\)"):
        features(least - 1)


@pytest.mark.parametrize(
    ("model", "operand", "mask", "message"),
    [
        (ResNet3D(), (2, 30, 30, 30, 1), None, r"\(2, 30, 30, 30, 1\)"),
        (ResNet3D(channels=(4, 4), blocks=(1,)), (2, 30, 30, 30), None, r"\(4, 4\)"),
        (ResNet3D(), (2, 30, 30, 30), (3,), r"mask has shape \(3,\), expected \(2,\)"),
        (Decoder3D((8, 8, 8)), (2, 3, 4), None, r"\(2, 3, 4\)"),
        (Decoder3D((8, 8)), (2, 3), None, r"\(8, 8\)"),
        (Decoder3D((8, 8, 8)), (2, 3), (2, 1), r"mask has shape \(2, 1\), expected \(2,\)"),
    ],
)
def test_bad_arguments_are_named(model, operand, mask, message):
    mask = None if mask is None else jnp.ones(mask, bool)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=True, mask=mask), jnp.zeros(operand))
