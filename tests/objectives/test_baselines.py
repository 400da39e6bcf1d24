"""Each baseline's stage: one device against eight, what its site term does, and which rows it drops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.config import BaselineConfig, ModelConfig, RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.shape import DataShape
from eqpool.data.volumes.batches import batch_sizes
from eqpool.engine import data_parallel
from eqpool.engine.state import create_state, make_optimizer, update
from eqpool.engine.stream import make_stream_step
from eqpool.errors import InputError
from eqpool.objectives.baselines import covariate_deciles, make_baseline, match_groups, rows_with_partner
from experiments.runner import Task, config_of

SHAPE = DataShape((5,), covariates=1, sites=2, classes=2)
METHODS = ("naive", "mmd", "cai", "ss", "rm")


def config(method: str, site_weight: float = 1.0) -> RunConfig:
    baseline = BaselineConfig(batch_size=64, learning_rate=5e-3, site_weight=site_weight)
    return RunConfig(method=method, model=ModelConfig(latent_dim=6, hidden_units=16), baseline=baseline)


def rows(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Features of which the first tells the site and the second the target."""
    generator = np.random.default_rng(seed)
    site, target = generator.integers(0, 2, count), generator.integers(0, 2, count)
    inputs = generator.normal(size=(count, 5)).astype(np.float32)
    inputs[:, 0] = 2 * site - 1 + 0.3 * inputs[:, 0]
    inputs[:, 1] = 2 * target - 1 + 0.3 * inputs[:, 1]
    decile = generator.integers(0, 10, count)
    columns = {"site": site, "target": target, "decile": decile, "match": decile + 10 * target}
    ones = {name: np.ones(count, np.float32) for name in ("target_known", "mask")}
    columns["scan"] = np.arange(count)
    return {"inputs": inputs} | {name: value.astype(np.int32) for name, value in columns.items()} | ones


@pytest.mark.parametrize("method", METHODS)
def test_eight_devices_make_the_step_of_one(method):
    stage = make_baseline(config(method), SHAPE)
    batch = rows(64)
    batch["mask"][-5:] = 0
    optimizer = make_optimizer(config(method).baseline, 1)

    def one_step(mesh):
        state = data_parallel.put_replicated(create_state(stage, optimizer, jax.random.key(0)), mesh)
        return make_stream_step(stage, optimizer, mesh)(state, data_parallel.put_by_row(batch, mesh), jax.random.key(1))

    (one, terms_one), (eight, terms_eight) = one_step(data_parallel.make_mesh(1)), one_step(data_parallel.make_mesh(8))
    for term in terms_one:
        np.testing.assert_allclose(terms_one[term], terms_eight[term], rtol=2e-5, atol=1e-6, err_msg=term)
    for a, b in zip(jax.tree.leaves(one.optimizer_state), jax.tree.leaves(eight.optimizer_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6)


@pytest.fixture(scope="module")
def separation():
    """How far the sites' mean latents lie apart after training, in units of the spread, by method."""
    train, held_out = (jax.tree.map(jnp.asarray, rows(512, seed)) for seed in (1, 2))
    distances, accuracies = {}, {}
    for method in METHODS:
        stage = make_baseline(config(method, site_weight=3.0), SHAPE)
        optimizer = make_optimizer(config(method).baseline, 10_000)
        state = create_state(stage, optimizer, jax.random.key(0))
        step = jax.jit(lambda state, key, stage=stage, opt=optimizer: update(stage, opt, state, train, key)[0])
        for index in range(300):
            state = step(state, jax.random.key(index))
        outputs = stage.forward(state.variables, held_out)
        latent, site = np.asarray(outputs["latent"]), np.asarray(held_out["site"])
        apart = latent[site == 0].mean(axis=0) - latent[site == 1].mean(axis=0)
        distances[method] = np.linalg.norm(apart) / latent.std()
        accuracies[method] = np.mean(np.asarray(outputs["prediction"]).argmax(axis=1) == held_out["target"])
    return distances, accuracies


@pytest.mark.parametrize("method", METHODS[1:])
def test_the_site_term_brings_the_sites_together_and_keeps_the_target(separation, method):
    distances, accuracies = separation
    assert distances[method] < 0.35 * distances["naive"]
    assert accuracies[method] > 0.95


def test_naive_ignores_the_site_weight():
    stage = make_baseline(config("naive", site_weight=100.0), SHAPE)
    variables, batch = stage.initialise(jax.random.key(0)), jax.tree.map(jnp.asarray, rows(32))
    value = stage.loss(variables, batch, jax.random.key(0), jnp.int32(0))
    np.testing.assert_allclose(value.total, value.terms["prediction"] + 0.1 * value.terms["reconstruction"], rtol=1e-6)


def cohort(covariate, site, target) -> Cohort:
    count = len(site)
    return Cohort(
        name="made up", simulated=True, participant_id=np.arange(count).astype(str), inputs=np.zeros((count, 1)),
        site=np.array(site, np.int32), site_names=("A", "B"),
        covariates=np.array(covariate, np.float64)[:, None], covariate_names=("age",),
        target=np.array(target, np.int32), target_name="y", target_classes=("no", "yes"),
        split=np.array(["train"] * count),
    )  # fmt: skip


def test_rows_without_partner_are_dropped():
    # Ten covariate values, one a decile: 0..4 are site A alone, 5..9 both sites; at 9 the classes differ.
    covariate = [*range(10), *range(5, 10)]
    site = [0] * 10 + [1] * 5
    target = [0] * 10 + [0, 0, 0, 0, 1]
    made = cohort(covariate, site, target)
    shared_decile = [row for row, value in enumerate(covariate) if value >= 5]
    assert rows_with_partner(made, "ss").tolist() == shared_decile
    assert rows_with_partner(made, "rm").tolist() == [row for row in shared_decile if covariate[row] != 9]
    assert rows_with_partner(made, "mmd").tolist() == list(range(15))


def test_an_unknown_site_or_class_is_no_partner():
    covariate, site, target = [0, 0, 1, 1, 2, 2], [0, -1, 0, 1, 0, 1], [0, 0, 0, 0, 0, -1]
    spread = [value * 10 for value in covariate]
    made = cohort(spread, site, target)
    assert rows_with_partner(made, "ss").tolist() == [2, 3, 4, 5]
    assert rows_with_partner(made, "rm").tolist() == [2, 3]


def test_a_cohort_without_partners_is_refused():
    """Site A is younger than site B throughout: SS and RM would train on no rows at all."""
    made = cohort(range(20), [0] * 10 + [1] * 10, [0, 1] * 10)
    for method, alike in (("ss", "decile of age;"), ("rm", "decile of age and y;")):
        with pytest.raises(InputError, match=f'config.method = "{method}": none of 20 training rows .* same {alike}'):
            rows_with_partner(made, method)


def test_deciles_hold_a_tenth_of_the_training_rows_each():
    generator = np.random.default_rng(0)
    made = cohort(generator.normal(size=1000), generator.integers(0, 2, 1000), generator.integers(0, 2, 1000))
    assert np.bincount(covariate_deciles(made)).tolist() == [100] * 10
    assert len(np.unique(match_groups(made))) == 20
    held_out = dataclasses.replace(made, split=np.array(["train"] * 500 + ["test"] * 500))
    assert np.bincount(covariate_deciles(held_out)[:500]).tolist() == [50] * 10


@pytest.mark.parametrize(("name", "count"), [("adni", 315), ("adcp", 81), ("adult", 26_048), ("fcon1000", 700)])
def test_a_baseline_takes_as_many_steps_as_both_stages_of_ours(name, count, tmp_path):
    """With the training rows of the data set that a config is for."""
    made = config_of(Task(name, "", {}, tmp_path))
    stages = (made.stage_one, made.stage_two, made.baseline)
    one, two, baseline = (stage.epochs * len(batch_sizes(count, stage.batch_size)) for stage in stages)
    assert abs(baseline / (one + two) - 1) < 0.07
    if name in ("adni", "adcp"):
        assert made.baseline.keep_epoch == made.stage_two.keep_epoch == "last"
