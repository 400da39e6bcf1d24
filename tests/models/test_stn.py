"""The spatial transformers: the identity at first, the caps (docs/method.md, section 9), gradients that let them
leave.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eqpool.geometry.warp import affine_displacement, affine_matrix, bspline_control_shape
from eqpool.models.stn import AffineSTN, BSplineSTN, Trunk

WIDTHS = (2, 3, 4)
AFFINE, BSPLINE = AffineSTN(WIDTHS), BSplineSTN(4, widths=WIDTHS)
MODELS = pytest.mark.parametrize("model", [AFFINE, BSPLINE], ids=["affine", "bspline"])
SHAPES = pytest.mark.parametrize("shape", [(2, 13, 10, 1), (2, 7, 9, 6, 1)], ids=["2d", "3d"])


def images(*shape, seed=0):
    return jnp.tanh(jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32)))


# Everything runs under jit: op by op the same tests take minutes.
@functools.partial(jax.jit, static_argnums=0)
def initialise(model, x, condition=None):
    return model.init(jax.random.key(0), x, train=True, condition=condition)


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(model, variables, x, train=False, condition=None, mask=None):
    return model.apply(variables, x, train=train, condition=condition, mask=mask, mutable=["batch_stats"])


@functools.partial(jax.jit, static_argnums=0)
def gradient(model, variables, x):
    def loss(params):
        deformation, _ = apply(model, {**variables, "params": params}, x, True)
        return jnp.sum(deformation.warp(x, fill=-1.0) * images(*x.shape, seed=7))

    return jax.grad(loss)(variables["params"])


def with_last_layer(variables, change):
    trunk = variables["params"]["trunk"]
    return {**variables, "params": {"trunk": {**trunk, "parameters": change(trunk["parameters"])}}}


def away_from_the_identity(variables):
    def change(layer):
        key = jax.random.key(5)
        return {"kernel": 0.05 * jax.random.normal(key, layer["kernel"].shape), "bias": layer["bias"] + 0.3}

    return with_last_layer(variables, change)


@MODELS
@SHAPES
def test_starts_as_the_identity(model, shape):
    x = images(*shape)
    deformation, _ = apply(model, initialise(model, x), x, True)
    np.testing.assert_array_equal(deformation.warp(x, fill=-1.0), x)
    displacement = deformation.displacement(x.shape[1:-1])
    assert displacement.shape == (*x.shape[:-1], x.ndim - 2) and not displacement.any()
    assert {leaf.dtype for leaf in jax.tree.leaves(deformation)} == {jnp.dtype("float32")}


@MODELS
@SHAPES
def test_can_leave_the_identity(model, shape):
    x = images(*shape)
    gradients = gradient(model, initialise(model, x), x)["trunk"]
    last = gradients.pop("parameters")
    free = np.abs(last["bias"]) > 0
    # A shear turns the axes that nothing stretches yet, so the affine map's last angles have no gradient at first.
    rank = len(shape) - 2
    expected = np.arange(len(free)) < len(free) - (rank * (rank - 1) // 2 if model is AFFINE else 0)
    np.testing.assert_array_equal(free, expected)
    assert (np.abs(last["kernel"]).max(0) > 0).tolist() == expected.tolist()
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))


@MODELS
@SHAPES
def test_every_parameter_has_a_gradient_once_it_has_left(model, shape):
    x = images(*shape)
    gradients = gradient(model, away_from_the_identity(initialise(model, x)), x)
    for leaf in jax.tree.leaves(gradients):
        assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 0


@pytest.mark.parametrize("sign", [-1, 1])
@SHAPES
def test_affine_caps(shape, sign):
    x, rank = images(*shape), len(shape) - 2
    angles = rank * (rank - 1) // 2
    saturated = with_last_layer(
        initialise(AFFINE, x), lambda layer: {**layer, "bias": jnp.full_like(layer["bias"], sign * 50)}
    )
    deformation, _ = apply(AFFINE, saturated, x)
    quarter = jnp.full((2, angles), sign * math.pi / 4)
    expected = affine_matrix(jnp.full((2, rank), sign * 0.1), quarter, jnp.full((2, rank), sign * 0.2), quarter)
    assert deformation.matrix.shape == (2, rank, rank + 1) and deformation.field is None
    np.testing.assert_allclose(deformation.matrix, expected, atol=1e-6)
    expected_field = affine_displacement(expected, x.shape[1:-1])
    np.testing.assert_allclose(deformation.displacement(x.shape[1:-1]), expected_field, atol=1e-5)


def test_parameters_of_the_affine_map_are_in_their_places():
    x = images(2, 13, 10, 1)
    bias = jnp.array([0.1, -0.2, 0.3, 0.4, -0.5, 0.6])  # translation, rotation, log scale, shear
    variables = with_last_layer(initialise(AFFINE, x), lambda layer: {**layer, "bias": bias})
    matrix = apply(AFFINE, variables, x)[0].matrix
    bounded = jnp.broadcast_to(jnp.tanh(bias), (2, 6))
    turn = math.pi / 4
    expected = affine_matrix(0.1 * bounded[:, :2], turn * bounded[:, 2:3], 0.2 * bounded[:, 3:5], turn * bounded[:, 5:])
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


@SHAPES
def test_bspline_caps_are_a_fraction_of_each_axis(shape):
    x = images(*shape)
    saturated = with_last_layer(
        initialise(BSPLINE, x), lambda layer: {**layer, "bias": jnp.full_like(layer["bias"], 50.0)}
    )
    deformation, _ = apply(BSPLINE, saturated, x)
    field = deformation.field
    assert deformation.matrix is None and field.shape == (*shape[:-1], len(shape) - 2)
    np.testing.assert_allclose(field, jnp.broadcast_to(0.1 * jnp.array(shape[1:-1]), field.shape), rtol=1e-5)
    np.testing.assert_array_equal(deformation.displacement(shape[1:-1]), field)


@pytest.mark.parametrize("spacing", [3, (4, 5)])
def test_bspline_has_its_control_points(spacing):
    model, x = BSplineSTN(spacing, widths=WIDTHS), jnp.zeros((2, 13, 10, 1))
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=True), x)["params"]
    assert params["trunk"]["parameters"]["bias"].shape == (2 * math.prod(bspline_control_shape((13, 10), spacing)),)


@pytest.mark.parametrize(("rank", "outputs"), [(2, 6), (3, 12)])
def test_the_trunk_halves_four_times(rank, outputs):
    def found(x):
        variables = Trunk(outputs).init(jax.random.key(0), x, train=False)
        options = {"capture_intermediates": True, "mutable": ["intermediates"]}
        return variables["params"], Trunk(outputs).apply(variables, x, train=False, **options)[1]["intermediates"]

    params, layers = jax.eval_shape(found, jax.ShapeDtypeStruct((2, *(64,) * rank, 1), jnp.float32))
    widths, sides = (8, 16, 32, 64, 64), (64, 32, 16, 8, 4)
    shapes = {name: layers[name]["__call__"][0].shape for name in layers if name.startswith("layer")}
    assert shapes == {f"layer{i}": (2, *(sides[i],) * rank, widths[i]) for i in range(5)}
    pairs = zip((1, *widths), widths, strict=False)
    convolutions = sum(3**rank * a * b + 2 * b for a, b in pairs)
    linear = (4**rank * 64 + 1) * outputs
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == convolutions + linear


@MODELS
def test_a_condition_changes_the_deformation_and_none_is_an_empty_one(model):
    x = images(2, 13, 10, 1)
    none, empty = initialise(model, x), initialise(model, x, jnp.zeros((2, 0)))
    jax.tree.map(np.testing.assert_array_equal, none, empty)
    variables = away_from_the_identity(initialise(model, x, jnp.eye(2)))
    fields = [
        apply(model, variables, x, False, condition)[0].displacement((13, 10))
        for condition in (jnp.eye(2), jnp.eye(2)[::-1])
    ]
    assert jnp.abs(fields[0] - fields[1]).max() > 1e-3


def test_statistics_move_in_training_only_and_without_masked_rows():
    x = 3 * images(3, 13, 10, 1)
    variables = initialise(AFFINE, x)
    _, evaluated = apply(AFFINE, variables, x)
    jax.tree.map(np.testing.assert_array_equal, evaluated["batch_stats"], variables["batch_stats"])
    _, trained = apply(AFFINE, variables, x[:2], True)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), trained["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))
    _, masked = apply(AFFINE, variables, x, True, None, jnp.array([1.0, 1.0, 0.0]))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), masked, trained)


@MODELS
def test_bfloat16_stays_near_float32(model):
    x = images(2, 13, 10, 1)
    variables = away_from_the_identity(initialise(model, x))
    half = model.clone(dtype=jnp.bfloat16)
    displacement = apply(half, variables, x, True)[0].displacement((13, 10))
    assert displacement.dtype == jnp.float32
    np.testing.assert_allclose(displacement, apply(model, variables, x, True)[0].displacement((13, 10)), atol=0.1)


@MODELS
def test_learns_a_shift(model):
    grid = jnp.stack(jnp.meshgrid(jnp.arange(16.0), jnp.arange(16.0), indexing="ij"), axis=-1)

    def blob(centre):
        return jnp.exp(-jnp.sum(jnp.square(grid - jnp.array(centre)), axis=-1) / 12)[None, ..., None]

    x, target = (jnp.concatenate([blob(a), blob(b)]) for a, b in (((7, 7), (8, 6)), ((6.4, 7.5), (7.4, 6.5))))
    variables = initialise(model, x)
    optimiser = optax.adam(1e-2)

    def loss(params):
        deformation, _ = apply(model, {**variables, "params": params}, x, True)
        return jnp.mean(jnp.square(deformation.warp(x) - target))

    @jax.jit
    def train(params):
        def step(carry, _):
            value, gradients = jax.value_and_grad(loss)(carry[0])
            updates, moments = optimiser.update(gradients, carry[1])
            return (optax.apply_updates(carry[0], updates), moments), value

        return jax.lax.scan(step, (params, optimiser.init(params)), length=40)[1]

    values = train(variables["params"])
    assert values[-1] < 0.1 * values[0]


@MODELS
def test_images_of_another_rank_are_named(model):
    with pytest.raises(ValueError, match=r"\(2, 13, 10\)"):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=True), jnp.zeros((2, 13, 10)))
