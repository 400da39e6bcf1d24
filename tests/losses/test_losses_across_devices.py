"""Losses and gradients on eight devices equal those on one: sharded jit, shard_map with and without check_vma, pmap."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eqpool import conditional_mmd, equivariance_loss, mmd
from eqpool.geometry import so
from eqpool.losses.equivariance import unbiased_equivariance_loss
from eqpool.losses.matching import grouped_mmd, matched_distance
from eqpool.losses.task import task_loss

ROWS, FEATURES, N = 24, 3, 4
GENERATORS = so.generator(N, rotation_range=(3.0, 1.5))
LOSSES = {
    "equivariance, expm": lambda outputs, rows, **axis: equivariance_loss(
        so.cayley(so.skew(outputs)), rows["covariate"], generator=GENERATORS, mask=rows["mask"], **axis
    ),
    "equivariance, cayley": lambda outputs, rows, **axis: equivariance_loss(
        so.cayley(so.skew(outputs)),
        rows["covariate"],
        generator=GENERATORS,
        group_map="cayley",
        mask=rows["mask"],
        **axis,
    ),
    "equivariance, unbiased": lambda outputs, rows, **axis: unbiased_equivariance_loss(
        so.cayley(so.skew(outputs)), rows["covariate"], generator=GENERATORS, mask=rows["mask"], **axis
    ),
    "mmd, median and unbiased": lambda outputs, rows, **axis: mmd(
        outputs, rows["site"], num_sites=4, bandwidth="median", estimator="unbiased", mask=rows["mask"], **axis
    ),
    "conditional mmd, grid": lambda outputs, rows, **axis: conditional_mmd(
        outputs, rows["site"], rows["covariate"][:, 0], num_sites=4, covariate_bandwidth=0.4, mask=rows["mask"], **axis
    ),
    "conditional mmd, batch": lambda outputs, rows, **axis: conditional_mmd(
        outputs, rows["site"], rows["covariate"], num_sites=4, covariate_bandwidth=0.5, mask=rows["mask"], **axis
    ),
    "sub-sampling": lambda outputs, rows, **axis: grouped_mmd(
        outputs, rows["site"], rows["group"], num_sites=4, num_groups=2, bandwidth="median", mask=rows["mask"], **axis
    ),
    "random matching": lambda outputs, rows, **axis: matched_distance(
        outputs, rows["site"], rows["group"], num_sites=4, mask=rows["mask"], **axis
    ),
    "cross-entropy": lambda outputs, rows, **axis: task_loss(
        outputs, rows["site"], num_classes=6, mask=rows["mask"], **axis
    ),
}
loss_names = pytest.mark.parametrize("name", list(LOSSES))


def problem() -> tuple[jax.Array, dict[str, jax.Array]]:
    """Parameters of a linear model, and rows whose mask is uneven across devices: the second has none that counts."""
    generator = np.random.default_rng(0)
    rows = {
        "features": generator.normal(size=(ROWS, FEATURES)).astype(np.float32),
        "covariate": generator.uniform(size=(ROWS, 2)).astype(np.float32),
        "site": generator.integers(-1, 3, size=ROWS).astype(np.int32),
        "group": generator.integers(0, 2, size=ROWS).astype(np.int32),
        "mask": np.isin(np.arange(ROWS), [0, 3, 4, 5, 20], invert=True).astype(np.float32),
    }
    parameters = generator.normal(size=(FEATURES, N * (N - 1) // 2)).astype(np.float32)
    return jnp.asarray(parameters), jax.tree.map(jnp.asarray, rows)


def loss_of(name: str, parameters: jax.Array, rows: dict[str, jax.Array], **axis) -> jax.Array:
    return LOSSES[name](rows["features"] @ parameters, rows, **axis)


@cache
def on_one_device(name: str) -> tuple[jax.Array, jax.Array]:
    return jax.jit(jax.value_and_grad(partial(loss_of, name)))(*problem())


def check(name: str, value: jax.Array, gradient: jax.Array) -> None:
    expected_value, expected_gradient = on_one_device(name)
    assert np.abs(expected_gradient).max() > 1e-3
    np.testing.assert_allclose(value, np.broadcast_to(expected_value, np.shape(value)), rtol=2e-5)
    np.testing.assert_allclose(gradient, np.broadcast_to(expected_gradient, np.shape(gradient)), atol=2e-5, rtol=1e-3)


def mesh() -> jax.sharding.Mesh:
    assert jax.device_count() == 8
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


@loss_names
def test_sharded_jit(name):
    parameters, rows = problem()
    rows = jax.device_put(rows, NamedSharding(mesh(), P("data")))
    parameters = jax.device_put(parameters, NamedSharding(mesh(), P()))
    check(name, *jax.jit(jax.value_and_grad(partial(loss_of, name)))(parameters, rows))


def mapped_step(name: str, parameters: jax.Array, rows: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """What a data-parallel train step does by custom: the local gradient, then pmean."""
    value, gradient = jax.value_and_grad(partial(loss_of, name, axis_name="data"))(parameters, rows)
    return value, jax.lax.pmean(gradient, "data")


@loss_names
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(name, check_vma):
    step = jax.shard_map(
        partial(mapped_step, name), mesh=mesh(), in_specs=(P(), P("data")), out_specs=P(), check_vma=check_vma
    )
    check(name, *jax.jit(step)(*problem()))


@loss_names
def test_pmap(name):
    parameters, rows = problem()
    rows = jax.tree.map(lambda x: x.reshape(8, ROWS // 8, *x.shape[1:]), rows)
    check(name, *jax.pmap(partial(mapped_step, name), axis_name="data", in_axes=(None, 0))(parameters, rows))


def test_terms_with_axis_name_add_up_under_one_gradient():
    """The rule of `eqpool.losses`: with every term given the axis, a weighted sum is as exact as its terms."""
    names = ("equivariance, expm", "mmd, median and unbiased", "cross-entropy")

    def total(parameters, rows, **axis):
        terms = [loss_of(name, parameters, rows, **axis) for name in names]
        return terms[0] + 0.3 * terms[1] + 2 * terms[2]

    def step(parameters, rows):
        return jax.lax.pmean(jax.grad(partial(total, axis_name="data"))(parameters, rows), "data")

    expected = jax.jit(jax.grad(total))(*problem())
    for check_vma in (True, False):
        mapped = jax.shard_map(step, mesh=mesh(), in_specs=(P(), P("data")), out_specs=P(), check_vma=check_vma)
        np.testing.assert_allclose(jax.jit(mapped)(*problem()), expected, atol=2e-5)


def train(axis_name, parameters, rows, steps: int = 3):
    """A whole train step, three times: both losses, Adam, gradients averaged as is customary."""
    optimizer = optax.adam(0.05)

    def total(parameters):
        axis = {} if axis_name is None else {"axis_name": axis_name}
        names = ("equivariance, expm", "mmd, median and unbiased", "cross-entropy")
        return sum(loss_of(name, parameters, rows, **axis) for name in names)

    state = optimizer.init(parameters)
    for _ in range(steps):
        gradient = jax.grad(total)(parameters)
        gradient = gradient if axis_name is None else jax.lax.pmean(gradient, axis_name)
        updates, state = optimizer.update(gradient, state)
        parameters = optax.apply_updates(parameters, updates)
    return parameters


def test_whole_train_steps_under_every_kind_of_parallelism():
    with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers
        parameters, rows = problem()
        expected = np.asarray(jax.jit(partial(train, None))(parameters, rows))
        sharded = jax.device_put(rows, NamedSharding(mesh(), P("data")))
        split = jax.tree.map(lambda x: x.reshape(8, ROWS // 8, *x.shape[1:]), rows)
        mapped = jax.shard_map(partial(train, "data"), mesh=mesh(), in_specs=(P(), P("data")), out_specs=P())
        results = {
            "jit": jax.jit(partial(train, None))(parameters, sharded),
            "shard_map": jax.jit(mapped)(parameters, rows),
            "pmap": jax.pmap(partial(train, "data"), axis_name="data", in_axes=(None, 0))(parameters, split)[3],
        }
    assert np.abs(expected - parameters).max() > 0.1
    for name, result in results.items():
        np.testing.assert_allclose(result, expected, atol=1e-4, err_msg=name)


def test_row_tiles_inside_shard_map(monkeypatch):
    monkeypatch.setattr("eqpool.losses.plane_sums._TILE_SIZE", 2)
    step = jax.shard_map(
        partial(mapped_step, "equivariance, cayley"), mesh=mesh(), in_specs=(P(), P("data")), out_specs=P()
    )
    check("equivariance, cayley", *jax.jit(step)(*problem()))
