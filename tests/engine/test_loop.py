"""The loop on a toy stage: logs, keeps the best epoch, resumes bitwise, stops on NaN and on SIGTERM."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.config import StageOneConfig
from eqpool.engine import data_parallel
from eqpool.engine.divergence import BadBatch, StepTerms, check_steps
from eqpool.engine.loop import Preempted, TrainingDiverged, fit
from eqpool.engine.state import LossValue, Stage, create_state, make_optimizer
from eqpool.engine.table import epoch_order, make_table_epoch
from eqpool.storage.checkpoints import Checkpoints
from eqpool.storage.logs import MetricsLog

SETTINGS = StageOneConfig(epochs=6, batch_size=8, learning_rate=0.05)


def toy_stage() -> Stage:
    """Linear regression with a masked mean."""

    def loss(variables, batch, key, epoch, axis_name):
        error = jnp.square(batch["x"] @ variables["params"]["w"] - batch["y"])
        total = jnp.sum(error * batch["mask"]) / batch["mask"].sum()
        return LossValue(total, {"error": total}, {})

    def forward(variables, batch):
        return {"prediction": batch["x"] @ variables["params"]["w"]}

    def validate(outputs, rows):
        return {"score": jnp.mean(jnp.square(outputs["prediction"] - rows["y"]))}

    return Stage("toy", lambda key: {"params": {"w": jax.random.normal(key, (3,))}}, loss, forward, validate)


def table(rows: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 3)).astype(np.float32)
    return {"x": x, "y": (x @ np.array([1.0, -2.0, 0.5], np.float32)).astype(np.float32)}


def train(tmp_path, epochs, mesh=None, save_every=1, hook=None, data=None, stage=None, patience=0):
    mesh = mesh or data_parallel.make_mesh(1)
    stage = stage or toy_stage()
    optimizer = make_optimizer(SETTINGS, 3)
    epoch_fn = make_table_epoch(stage, optimizer, SETTINGS.batch_size, mesh)
    tables = data_parallel.put_replicated([data or table(21), table(10, 1)], mesh)
    key = jax.random.key(0)

    def run_epoch(state, epoch):
        if hook:
            hook(epoch)
        number = int(state.step) + 1
        state, terms, scores, each = epoch_fn(state, *tables, key)
        check_steps(each, number)
        return state, terms, scores

    state = data_parallel.put_replicated(create_state(stage, optimizer, key), mesh)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    return fit("toy", state, run_epoch, epochs, tmp_path / "checkpoints", save_every, log, patience), log


def test_an_epoch_visits_every_row_once_and_masks_the_rest():
    order = epoch_order(jax.random.key(1), num_rows=21, batch_size=9, mesh=data_parallel.make_mesh(8))
    assert order.rows.shape == order.mask.shape == (3, 16)
    visited = np.asarray(order.rows)[np.asarray(order.mask) > 0]
    assert sorted(visited) == list(range(21)) and visited.tolist() != list(range(21))
    np.testing.assert_array_equal(order.mask, [[1] * 7 + [0] * 9] * 3)


def test_training_lowers_the_loss_and_logs_every_epoch(tmp_path):
    state, log = train(tmp_path, 6)
    records = log.records()
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["step"] == int(state.step) == 18
    scores = [record["validation_score"] for record in records]
    assert float(state.best_score) == pytest.approx(min(scores))
    assert int(state.best_epoch) == int(np.argmin(scores))


@pytest.mark.parametrize("keeps_last", [False, True])
def test_the_best_epoch_is_kept_or_the_last(tmp_path, keeps_last):
    """The score is made to rise, so that the first epoch is the best."""
    rising = toy_stage()._replace(
        validate=lambda outputs, rows: {"score": -jnp.mean(jnp.square(outputs["prediction"] - rows["y"]))},
        keeps_last=keeps_last,
    )
    state, log = train(tmp_path, 4, stage=rising)
    kept = 3 if keeps_last else 0
    assert int(state.best_epoch) == kept
    assert float(state.best_score) == pytest.approx(log.records()[kept]["validation_score"])
    same = np.array_equal(state.best_variables["params"]["w"], state.variables["params"]["w"])
    assert same == keeps_last


def test_training_stops_once_the_score_has_not_fallen_for_its_patience(tmp_path):
    """The score is made to rise; a run that has stopped stays so, with more epochs to come too."""
    rising = toy_stage()._replace(
        validate=lambda outputs, rows: {"score": -jnp.mean(jnp.square(outputs["prediction"] - rows["y"]))}
    )
    state, log = train(tmp_path / "rising", 6, save_every=4, stage=rising, patience=2)
    assert [record["epoch"] for record in log.records()] == [1, 2, 3] and int(state.best_epoch) == 0
    again, log = train(tmp_path / "rising", 9, save_every=4, stage=rising, patience=2)
    assert [record["epoch"] for record in log.records()] == [1, 2, 3] and int(again.step) == int(state.step)
    _, log = train(tmp_path / "falling", 6, patience=2)
    assert len(log.records()) == 6


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path):
    whole, _ = train(tmp_path / "whole", 6)

    class Killed(Exception):
        pass

    def kill_at_four(epoch):
        if epoch == 4:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "cut", 6, save_every=3, hook=kill_at_four)
    resumed, log = train(tmp_path / "cut", 6, save_every=3)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [record["epoch"] for record in log.records()] == [1, 2, 3, 4, 5, 6]


def test_eight_devices_train_what_one_does(tmp_path):
    one, _ = train(tmp_path / "one", 3, data_parallel.make_mesh(1))
    eight, _ = train(tmp_path / "eight", 3, data_parallel.make_mesh(8))
    np.testing.assert_allclose(one.variables["params"]["w"], eight.variables["params"]["w"], rtol=1e-5, atol=1e-6)


def test_nan_stops_with_step_terms_and_the_last_good_checkpoint(tmp_path):
    train(tmp_path, 2)
    bad = table(21)
    bad["x"][3, 0] = np.nan
    key, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 2))  # of the third epoch's order
    order = epoch_order(key, 21, SETTINGS.batch_size, data_parallel.make_mesh(1))
    step, _ = np.argwhere((np.asarray(order.rows) == 3) & (np.asarray(order.mask) > 0))[0]
    expected = f"toy diverged in epoch 3, step {6 + step + 1}: error, gradient_norm, loss not finite for the batch of"
    with pytest.raises(TrainingDiverged, match=expected) as told:
        train(tmp_path, 4, data=bad)
    assert str(told.value).endswith("rows); the last good checkpoint is that of epoch 2")


def test_a_gradient_that_is_not_finite_stops_before_it_is_saved(tmp_path):
    """The loss is finite at the last step of the epoch, and what would be saved is not."""
    stage = toy_stage()

    def loss(variables, batch, key, epoch, axis_name):
        value = stage.loss(variables, batch, key, epoch, axis_name)
        spoilt = jnp.where(batch["x"].max() > 50, jnp.sqrt(0 * variables["params"]["w"][0]), 0.0)
        return value._replace(total=value.total + spoilt)

    bad = table(21)
    bad["x"][3] = 100.0
    with pytest.raises(TrainingDiverged, match=r"step [123]: gradient_norm not finite"):
        train(tmp_path, 1, data=bad, stage=stage._replace(loss=loss))
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_a_measure_that_is_not_defined_is_left_out_of_the_log(tmp_path):
    """An equivariance error of a tau that does not turn, say; a score that is not finite stops the run."""
    stage, measured = toy_stage(), {"turn": jnp.nan, "spread": 2.0}
    undefined = stage._replace(validate=lambda outputs, rows: stage.validate(outputs, rows) | measured)
    _, log = train(tmp_path / "undefined", 2, stage=undefined)
    assert all(
        "validation_turn" not in record and record["validation_spread"] == 2 and np.isfinite(record["validation_score"])
        for record in log.records()
    )
    broken = stage._replace(validate=lambda outputs, rows: {"score": jnp.nan})
    with pytest.raises(TrainingDiverged, match="validation_score not finite"):
        train(tmp_path / "broken", 2, stage=broken)


def test_the_batch_is_named_by_its_participants():
    terms = {"loss": jnp.array([1.0, jnp.nan]), "site": jnp.array([0.0, 1.0])}
    rows, mask = np.array([[0, 1, 2], [4, 3, 0]]), np.array([[1, 1, 1], [1, 1, 0]])
    with pytest.raises(BadBatch) as told:
        check_steps(StepTerms(terms, rows, mask), first=11)
    names = np.array([f"sub-{index}" for index in range(5)])
    assert told.value.describe(names) == "step 12: loss not finite for the batch of sub-4, sub-3 (2 rows)"


def test_sigterm_saves_and_stops(tmp_path):
    def stop_at_two(epoch):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted, match="after epoch 3 of toy"):
        train(tmp_path, 6, save_every=100, hook=stop_at_two)
    resumed, _ = train(tmp_path, 6, save_every=100)
    whole, _ = train(tmp_path / "whole", 6)
    np.testing.assert_array_equal(resumed.variables["params"]["w"], whole.variables["params"]["w"])


def test_sigterm_after_the_last_look_is_not_lost(tmp_path, monkeypatch):
    """While the last epoch is saved nothing asks for the event any more; the process must end as without a handler."""
    outside, save = [], Checkpoints.save

    def save_and_stop(checkpoints, epoch, state):
        save(checkpoints, epoch, state)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    before = signal.signal(signal.SIGTERM, lambda *_: outside.append("SIGTERM"))
    try:
        train(tmp_path, 3, save_every=100)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert outside == ["SIGTERM"]


@pytest.mark.parametrize("asked", [True, False])
def test_sigterm_is_not_lost_when_its_epoch_fails(tmp_path, asked):
    """A caller that goes on after a run that diverged, as the experiments do, still stops when it was asked to."""

    def fail_at_two(epoch):
        if epoch == 2:
            if asked:
                os.kill(os.getpid(), signal.SIGTERM)
            raise TrainingDiverged("toy diverged")

    expected = (Preempted, "stopped by SIGTERM in toy.*toy diverged") if asked else (TrainingDiverged, "^toy diverged")
    with pytest.raises(expected[0], match=expected[1]):
        train(tmp_path, 6, save_every=1, hook=fail_at_two)
    assert train(tmp_path, 6)[0].epoch == 6  # goes on from epoch 2
