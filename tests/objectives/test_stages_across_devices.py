"""Two steps of every stage on eight devices under `jax.pmap` and `jax.shard_map` give the numbers of one device.

Nothing random is drawn here: dropout, soft labels and instance noise are off. Devices draw from keys of their own (see
`update`), so random numbers differ between one device and eight, and with them every number.

The optimizer is plain gradient descent. Adam divides a gradient by its own size, so that it turns the rounding error of
a gradient that is exactly 0, such as that of a bias before a batch norm, into a step of the full learning rate.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from eqpool.config import BaselineConfig, IstnConfig, ModelConfig, RunConfig, StageOneConfig, StageTwoConfig, TaskConfig
from eqpool.data.shape import DataShape
from eqpool.engine.state import Stage, TrainState, create_state, update
from eqpool.objectives.baselines import make_baseline
from eqpool.objectives.istn import make_istn
from eqpool.objectives.stage_one import make_stage_one
from eqpool.objectives.stage_two import make_stage_two
from eqpool.objectives.task import make_task
from eqpool.ops.devices import key_of_device

DEVICES, ROWS, STEPS, SITES = 8, 24, 2, 3
OPTIMIZER = optax.sgd(0.05)
VOLUME, IMAGE, FEATURES, LATENT = (9, 9, 9), (12, 12), (5,), 4
# float32 has 1.2e-7. Sums over devices are added in another order, and batch norm divides the difference by the spread
# of a channel, which is small in some.
RELATIVE, ABSOLUTE = 1e-4, 2e-5
# CAI's adversary has Adam. What a batch norm takes out again has a gradient of rounding errors alone.
UNDONE_BY_BATCH_NORM = ("['bias']", "['mean']", "optimizer_state")


def model(**settings) -> ModelConfig:
    sizes = {"latent_dim": LATENT, "hidden_units": 6, "channels": (4, 4), "blocks": (1, 1), "decoder_channels": (4, 3)}
    return ModelConfig(**(sizes | settings), dropout=0.0)


def of_volumes() -> Stage:
    config = RunConfig(
        model=model(remat=True),
        class_weights="balanced",
        stage_one=StageOneConfig(prediction_weight=1.0, mmd_weight=1.0, bandwidth="median"),
    )
    return make_stage_one(config, DataShape(VOLUME, 2, SITES, 2))


def of_table() -> Stage:
    settings = StageOneConfig(prediction_weight=1.0, mmd_weight=1.0, kernel="gaussian", estimator="biased")
    config = RunConfig(model=model(group_map="cayley"), stage_one=settings)
    return make_stage_one(config, DataShape(FEATURES, 2, SITES, 2, nuisances=(2,)))


def of_latents() -> Stage:
    settings = StageTwoConfig(
        mmd_match="conditional", mmd_weight=1.0, adversary_weight=1.0, within_classes=True, estimator="biased"
    )
    config = RunConfig(model=model(), class_weights="balanced", stage_two=settings)
    return make_stage_two(config, DataShape(FEATURES, 2, SITES, 2, nuisances=(2,)))


def of_baseline(method: str, inputs: tuple[int, ...] = FEATURES) -> Stage:
    config = RunConfig(method=method, model=model(), baseline=BaselineConfig(site_weight=1.0, estimator="biased"))
    return make_baseline(config, DataShape(inputs, 2, SITES, 2))


def of_images(**settings) -> Stage:
    """An ISTN. The task model is the age regressor, because the classifiers' dropout is fixed."""
    sizes = {"encoder": (3, 4), "bottleneck": (4,), "decoder": (3,), "discriminator": (3, 4), "image_weight": 1.0}
    still = {"dropout": 0.0, "discriminator_dropout": 0.0, "softness": 0.0, "instance_noise": 0.0}
    config = RunConfig(
        method="istn", task=TaskConfig(model="age_regressor"), istn=IstnConfig(**(sizes | still | settings))
    )
    shape = DataShape(IMAGE, 1, 2 if settings["direction"] == "two_way" else SITES, 0)
    return make_istn(config, shape, make_task(config, shape).initialise(jax.random.key(5)))


WEIGHTS = {"bending_weight": 1.0, "change_weight": 1.0, "task_weight": 1.0, "gradient_penalty": 1.0}
STAGES = {
    "stage one, volumes": of_volumes,
    "stage one, table": of_table,
    "stage two": of_latents,
    **{method: partial(of_baseline, method) for method in ("mmd", "cai", "ss", "rm")},
    "istn, bspline": partial(of_images, direction="one_way", shape="bspline", spacing=4, **WEIGHTS),
    "istn, two ways": partial(of_images, direction="two_way", shape="none"),
}


def batches(name: str) -> dict[str, jax.Array]:
    """The batches of both steps, (STEPS, ROWS, ...). Devices have two, one or none of their three rows that count."""
    random = np.random.default_rng(0)
    size = (STEPS, ROWS)
    image = name.startswith("istn")
    shape = IMAGE if image else VOLUME if "volumes" in name else FEATURES
    site = random.integers(0, 1 if "two ways" in name else SITES, size)
    target = random.normal(size=size) if image else random.integers(0, 2, size)
    rotations = np.linalg.qr(random.normal(size=(*size, LATENT, LATENT)))[0]
    columns = {
        "inputs": np.tanh(random.normal(size=(*size, *shape)) + site.reshape(*size, *(1,) * len(shape))),
        "reference_inputs": np.tanh(random.normal(size=(*size, *shape))),
        "covariate": random.uniform(size=(*size, 2)),
        "latent": random.normal(size=(*size, LATENT)),
        "tau": rotations,
        "site": site,
        "reference_site": np.full(size, 1 if "two ways" in name else 2),
        "nuisance": random.integers(0, 2, (*size, 1)),
        "decile": random.integers(0, 3, size),
        "match": random.integers(0, 3, size),
        "scan": np.stack([random.permutation(2 * ROWS)[:ROWS] for _ in range(STEPS)]),
        "target": target,
        "target_known": random.integers(0, 4, size) > 0,
        "mask": np.broadcast_to(np.isin(np.arange(ROWS), [0, 4, 5, 9, 10, 11, 20], invert=True), size),
    }
    floats = {name: jnp.asarray(column, jnp.float32) for name, column in columns.items()}
    whole = ("site", "reference_site", "nuisance", "decile", "match", "scan", *(() if image else ("target",)))
    return floats | {name: jnp.asarray(columns[name], jnp.int32) for name in whole}


def train(stage: Stage, state: TrainState, rows: dict[str, jax.Array], axis_name: str | None = None):
    """Two steps, and the loss terms of each."""
    return jax.lax.scan(
        lambda state, batch: update(stage, OPTIMIZER, state, batch, jax.random.key(1), axis_name), state, rows
    )


def first_state(stage: Stage) -> TrainState:
    return create_state(stage, OPTIMIZER, jax.random.key(0))


@cache
def problem(name: str):
    """The stage, its first state, its batches, and what one device makes of them."""
    stage, rows = STAGES[name](), batches(name)
    state = first_state(stage)
    return stage, state, rows, jax.jit(partial(train, stage))(state, rows)


def check_equal(found, expected, before: TrainState) -> None:
    state, terms = found
    expected_state, expected_terms = expected
    for term, values in expected_terms.items():
        np.testing.assert_allclose(terms[term], values, rtol=RELATIVE, atol=ABSOLUTE, err_msg=term)
    old = jax.tree.leaves(before.variables)
    paths = jax.tree_util.tree_leaves_with_path(expected_state.variables)
    moved = [np.abs(values - start).max() for (_, values), start in zip(paths, old, strict=True)]
    assert max(moved) > 100 * ABSOLUTE  # training changes what is compared
    for (path, values), own in zip(paths, jax.tree.leaves(state.variables), strict=True):
        name = jax.tree_util.keystr(path)
        if "adversary" in name and any(part in name for part in UNDONE_BY_BATCH_NORM):
            continue
        np.testing.assert_allclose(own, values, rtol=RELATIVE, atol=ABSOLUTE, err_msg=name)


@pytest.mark.parametrize("name", list(STAGES))
def test_pmap(name):
    stage, state, rows, expected = problem(name)
    split = jax.tree.map(lambda x: x.reshape(STEPS, DEVICES, ROWS // DEVICES, *x.shape[2:]), rows)
    mapped = jax.pmap(partial(train, stage, axis_name="devices"), axis_name="devices", in_axes=(None, 1))
    found = jax.device_get(mapped(state, split))
    first = jax.tree.map(lambda x: x[0], found)
    # The copies of the state must not drift apart.
    jax.tree.map(lambda x, one: np.testing.assert_array_equal(x, np.broadcast_to(one, x.shape)), found, first)
    check_equal(first, expected, state)


@pytest.mark.parametrize("name", ["stage one, table", "stage two", "cai"])
def test_shard_map(name):
    stage, state, rows, expected = problem(name)
    mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        partial(train, stage, axis_name="devices"), mesh=mesh, in_specs=(P(), P(None, "devices")), out_specs=P()
    )
    check_equal(jax.device_get(jax.jit(mapped)(state, rows)), expected, state)


def test_a_classifier_has_the_batch_statistics_of_one_device():
    """The classifier's dropout comes after its last batch norm, whose statistics are therefore those of one device."""
    config = RunConfig(method="istn", task=TaskConfig(model="morpho_classifier"))
    stage = make_task(config, DataShape(IMAGE, 1, SITES, 2))
    variables, rows = stage.initialise(jax.random.key(0)), jax.tree.map(lambda x: x[0], batches("istn"))
    rows["target"] = jnp.zeros(ROWS, jnp.int32)

    def statistics(variables, rows, axis_name=None):
        return stage.loss(variables, rows, jax.random.key(1), jnp.int32(0), axis_name).batch_stats

    expected = jax.jit(statistics)(variables, rows)
    split = jax.tree.map(lambda x: x.reshape(DEVICES, ROWS // DEVICES, *x.shape[1:]), rows)
    found = jax.pmap(partial(statistics, axis_name="devices"), axis_name="devices", in_axes=(None, 0))(variables, split)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, np.broadcast_to(y, x.shape), rtol=RELATIVE, atol=ABSOLUTE),
        found,
        expected,
    )


def test_devices_drop_other_units():
    """The seed of the step is shared. Were the draws shared too, all devices would drop the same units."""
    draw = jax.pmap(lambda key: jax.random.bernoulli(key_of_device(key, "devices"), 0.5, (64,)), axis_name="devices")
    keys = jnp.broadcast_to(jax.random.key(0), (DEVICES,))
    assert len(np.unique(draw(keys), axis=0)) == DEVICES
    key = jax.random.key(0)
    assert key_of_device(key, None) is key
