"""81 rows in batches of 16 leave a remainder of one: no loop makes a step of it, and a killed run still resumes."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.config import BaselineConfig, IstnConfig, ModelConfig, RunConfig, StageOneConfig, StageTwoConfig, TaskConfig
from eqpool.data.cohort import Cohort
from eqpool.data.shape import DataShape
from eqpool.data.volumes.inputs import Grid
from eqpool.engine import data_parallel, image_training
from eqpool.engine import session as training
from eqpool.engine.pairs import Pairs
from eqpool.engine.session import Session, TrainingData
from eqpool.engine.state import LossValue, Stage, TrainState, create_state, make_optimizer
from eqpool.engine.table import make_table_epoch
from eqpool.estimator import EquivariantPooling
from eqpool.evaluate import adversary
from eqpool.methods import networks
from eqpool.models.layers import NormReluDropout
from eqpool.models.resnet3d import NormSwish
from eqpool.objectives.baselines import make_baseline
from eqpool.objectives.istn import make_istn
from eqpool.objectives.stage_one import make_stage_one
from eqpool.objectives.stage_two import make_stage_two
from eqpool.objectives.task import make_task
from eqpool.storage.run_folder import RunFolder
from tests.volume_inputs import volume_inputs

pytestmark = pytest.mark.usefixtures("quick_compile")

ROWS, BATCH, HELD_OUT, FEATURES, LATENT = 81, 16, 9, 5, 4
SPREAD = [14, 14, 14, 13, 13, 13]
TRAIN, VALIDATION = np.arange(ROWS), np.arange(ROWS, ROWS + HELD_OUT)
VOLUME, IMAGE = (5, 5, 5), (12, 12)
SHAPE = DataShape((FEATURES,), covariates=1, sites=2, classes=2)

Train = Callable[[Session, Callable[[Stage], Stage]], TrainState]


def config(method: str = "ours", epochs: int = 1) -> RunConfig:
    common = {"epochs": epochs, "batch_size": BATCH, "learning_rate": 1e-2, "checkpoint_every_epochs": 1}
    image = common | {"validate_every_epochs": 1}
    return RunConfig(
        method=method,
        devices=1,
        model=ModelConfig(
            latent_dim=LATENT, hidden_units=4, dropout=0.1, blocks=(1,), channels=(2,), decoder_channels=(2,)
        ),
        stage_one=StageOneConfig(prediction_weight=1.0, **common),
        stage_two=StageTwoConfig(**common),
        baseline=BaselineConfig(**common),
        task=TaskConfig(model="morpho_classifier", **image),
        istn=IstnConfig(
            encoder=(2, 4), bottleneck=(4,), decoder=(2,), discriminator=(2, 4), discriminator_norm="none",
            dropout=0.0, shape="none", image_weight=1.0, **image,
        ),
    )  # fmt: skip


def columns() -> dict[str, np.ndarray]:
    """All that a stage may read of 90 rows."""
    count, generator = ROWS + HELD_OUT, np.random.default_rng(0)
    labels = {name: generator.integers(0, 2, count).astype(np.int32) for name in ("site", "target", "decile", "match")}
    return labels | {
        "scan": np.arange(count, dtype=np.int32),
        "inputs": generator.normal(size=(count, FEATURES)).astype(np.float32),
        "covariate": generator.random((count, 1)).astype(np.float32),
        "target_known": np.ones(count, np.float32),
        "tau": np.linalg.qr(generator.normal(size=(count, LATENT, LATENT)))[0].astype(np.float32),
        "latent": generator.normal(size=(count, LATENT)).astype(np.float32),
    }


def with_inputs(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The columns of images in [-1, 1]."""
    inputs = np.tanh(np.random.default_rng(1).normal(size=(ROWS + HELD_OUT, *shape))).astype(np.float32)
    labels = {name: column for name, column in columns().items() if name not in ("tau", "latent")}
    return labels | {"inputs": inputs}


def train_stage_one(session: Session, seen: Callable[[Stage], Stage]) -> TrainState:
    stage = make_stage_one(session.config, SHAPE)
    return training.train_on_table(session, seen(stage), columns(), TRAIN, VALIDATION)


def train_stage_two(session: Session, seen: Callable[[Stage], Stage]) -> TrainState:
    return training.train_on_table(session, seen(make_stage_two(session.config, SHAPE)), columns(), TRAIN, VALIDATION)


def train_baseline(session: Session, seen: Callable[[Stage], Stage]) -> TrainState:
    stage = make_baseline(session.config, SHAPE)
    return training.train_on_table(session, seen(stage), columns(), TRAIN, VALIDATION)


def train_volumes(session: Session, seen: Callable[[Stage], Stage]) -> TrainState:
    made = with_inputs(VOLUME)
    cohort = Cohort(
        name="noise", simulated=True, participant_id=np.arange(len(made["site"])).astype(str),
        inputs=made.pop("inputs"), site=made["site"], site_names=("A", "B"),
        covariates=made["covariate"].astype(np.float64), covariate_names=("age",), target=made["target"],
        target_name="y", target_classes=("no", "yes"), split=np.array(["train"] * ROWS + ["validation"] * HELD_OUT),
        volumes=volume_inputs(Grid("tiny", VOLUME, np.eye(4), np.ones(VOLUME, bool)), len(made["site"])),
    )  # fmt: skip
    stage = make_stage_one(session.config, DataShape(VOLUME, 1, 2, 2))
    return training.train_on_volumes(session, seen(stage), TrainingData.of(cohort, made))


def train_task(session: Session, seen: Callable[[Stage], Stage]) -> TrainState:
    stage = make_task(session.config, DataShape(IMAGE, 1, 2, 2))
    return image_training.train_on_images(session, seen(stage), with_inputs(IMAGE), TRAIN, VALIDATION)


def train_istn(session: Session, seen: Callable[[Stage], Stage]) -> TrainState:
    """Twenty images of the reference beside 81 of the source."""
    source = with_inputs(IMAGE)
    reference = {name: source[name] for name in ("inputs", "site")}
    pretrained = make_task(session.config, DataShape(IMAGE, 1, 2, 2)).initialise(jax.random.key(0))
    stage = make_istn(session.config, DataShape(IMAGE, 1, 2, 2), pretrained)
    pairs = Pairs(TRAIN, np.arange(20), VALIDATION, VALIDATION)
    return image_training.train_on_pairs(session, seen(stage), source, reference, pairs)


LOOPS: dict[str, tuple[Train, str]] = {
    "stage_one": (train_stage_one, "ours"),
    "stage_two": (train_stage_two, "ours"),
    **{method: (train_baseline, method) for method in ("naive", "mmd", "cai", "ss", "rm")},
    "volumes": (train_volumes, "ours"),
    "task": (train_task, "istn"),
    "istn": (train_istn, "istn"),
}


def recording(stage: Stage, counts: list[int]) -> Stage:
    """The stage, which notes of each step how many rows count."""

    def loss(variables, batch, key, epoch, axis_name):
        jax.debug.callback(lambda rows: counts.append(int(rows)), batch["mask"].sum())
        return stage.loss(variables, batch, key, epoch, axis_name)

    return stage._replace(loss=loss)


@pytest.mark.parametrize("name", list(LOOPS))
def test_every_step_has_its_share_of_the_rows(name):
    train, method = LOOPS[name]
    counts: list[int] = []
    state = train(Session.start(config(method, epochs=2)), lambda stage: recording(stage, counts))
    jax.effects_barrier()
    assert sorted(counts, reverse=True) == sorted(2 * SPREAD, reverse=True)
    assert int(state.step) == 12  # as many as ceil(81 / 16) an epoch: the learning rate falls when it did


def test_the_estimator_fits_on_steps_of_many_rows(monkeypatch):
    """90 rows, of which a tenth choose the epochs; stage two's batches are four times as large."""
    counts: dict[str, list[int]] = {"stage_one": [], "stage_two": []}

    made_stages = networks.pooling_stages

    def recorded(*arguments) -> tuple[Stage, ...]:
        return tuple(recording(stage, counts[stage.name]) for stage in made_stages(*arguments))

    monkeypatch.setattr(networks, "pooling_stages", recorded)
    made = columns()
    site = np.array(["A", "B"])[np.arange(ROWS + HELD_OUT) % 2]
    EquivariantPooling(latent_dim=LATENT, hidden_units=4, epochs=1, batch_size=BATCH).fit(
        made["inputs"], site=site, covariates=made["covariate"]
    )
    jax.effects_barrier()
    assert {name: sorted(sizes, reverse=True) for name, sizes in counts.items()} == {
        "stage_one": SPREAD,
        "stage_two": [41, 40],
    }


@pytest.mark.parametrize("batch_size", [16, 128])
def test_the_adversary_has_full_batches_alone(batch_size, monkeypatch):
    """It leaves a remainder out and draws another order for the next epoch."""
    sizes, loss = [], adversary.task_loss

    def noted(logits, site, **options):
        sizes.append(len(site))
        return loss(logits, site, **options)

    monkeypatch.setattr(adversary, "task_loss", noted)
    made = columns()
    adversary.adversary_scores(
        made["inputs"][:ROWS], made["site"][:ROWS], made["inputs"][ROWS:],
        num_sites=2, epochs=3, learning_rate=1e-3, batch_size=batch_size, seeds=1,
    )  # fmt: skip
    assert set(sizes) == {min(batch_size, ROWS)}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("volumes", "task", "istn")]


@pytest.mark.parametrize("name", ["mmd", "cai", *SLOW])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(name, tmp_path):
    """Cut after the second of four epochs, in each of the loops."""
    train, method = LOOPS[name]

    def run(folder: pathlib.Path, epochs: int) -> TrainState:
        folder.mkdir(exist_ok=True)
        return train(Session.start(config(method, epochs), RunFolder(folder)), lambda stage: stage)

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "cut", 2)
    resumed = run(tmp_path / "cut", 4)
    assert int(whole.epoch) == int(resumed.epoch) == 4
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def normalised(norm) -> Stage:
    """A stage that is a norm layer: without a learning rate its batch statistics are all that a step changes."""

    def initialise(key):
        return dict(norm.init(key, jnp.zeros((2, FEATURES)), train=True, mask=None))

    def loss(variables, batch, key, epoch, axis_name):
        output, updated = norm.apply(
            variables, batch["inputs"], train=True, mask=batch["mask"] > 0, mutable=["batch_stats"]
        )
        return LossValue(jnp.sum(output * batch["mask"][:, None]), {}, dict(updated))

    def forward(variables, batch):
        return {"rows": batch["mask"]}

    return Stage("norm", initialise, loss, forward, lambda *_: {"score": jnp.zeros(())})


NORMS = {"encoder": NormSwish(jnp.float32), "istn": NormReluDropout("batch", 0.0, jnp.float32)}
MOMENTUM = 0.9


@pytest.mark.parametrize("name", list(NORMS))
@pytest.mark.parametrize("devices", [1, 8])
def test_running_statistics_are_those_of_the_rows_of_each_step(name, devices):
    """Against a float64 loop over the epoch's batches; what fills up their slots is a row far away, and is left out."""
    mesh, stage = data_parallel.make_mesh(devices), normalised(NORMS[name])
    inputs = np.random.default_rng(2).normal(3, 2, (ROWS, FEATURES)).astype(np.float32)
    inputs[0] += 100  # row 0 stands in every slot that has none
    settings = dataclasses.replace(config().stage_one, learning_rate=0.0)
    optimizer = make_optimizer(settings, 6)
    state = data_parallel.put_replicated(create_state(stage, optimizer, jax.random.key(0)), mesh)
    tables = data_parallel.put_replicated([{"inputs": inputs}, {"inputs": inputs[:HELD_OUT]}], mesh)
    state, _, _, steps = make_table_epoch(stage, optimizer, BATCH, mesh)(state, *tables, jax.random.key(1))

    mean, variance, counts = np.zeros(FEATURES), np.ones(FEATURES), []
    for rows, mask in zip(np.asarray(steps.rows), np.asarray(steps.mask), strict=True):
        batch = inputs[rows[mask > 0]].astype(np.float64)
        counts.append(len(batch))
        mean = MOMENTUM * mean + (1 - MOMENTUM) * batch.mean(axis=0)
        variance = MOMENTUM * variance + (1 - MOMENTUM) * batch.var(axis=0)
    assert counts == SPREAD
    found = state.variables["batch_stats"]["norm"]
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(found["var"], variance, rtol=1e-4)


def test_fewer_rows_than_a_step_should_have_are_one_step_with_a_warning():
    counts: list[int] = []
    session = Session.start(config())
    stage = recording(make_stage_one(session.config, SHAPE), counts)
    with pytest.warns(UserWarning, match="stage_one has 3 training rows"):
        state = training.train_on_table(session, stage, columns(), np.arange(3), VALIDATION)
    jax.effects_barrier()
    assert counts == [3] and int(state.step) == 1
