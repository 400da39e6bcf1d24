"""Which epochs are kept: the stage's best one, and of a network that learns from the others one of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.engine.state import (
    LossValue,
    Stage,
    create_state,
    finish_epoch,
    keep_followers,
    make_optimizer,
    update,
    with_followers,
)
from tests.engine.test_loop import SETTINGS


def toy(followers: tuple[str, ...] = ("pupil", "stats")) -> Stage:
    """A teacher and its pupils, one of them with batch statistics; every number is that of its epoch."""

    def initialise(key):
        del key
        names = ("teacher", *followers)
        return {"params": {name: {"w": jnp.full(2, -1.0)} for name in names}, "batch_stats": {"stats": jnp.array(-1.0)}}

    nothing = lambda *_: None  # noqa: E731
    return Stage("toy", initialise, nothing, nothing, nothing, followers=followers)


def by_hand(scores: list[float], losses: np.ndarray) -> list[tuple[int, int]]:
    """After each epoch the teacher's kept epoch and the pupil's; `losses` (teacher's epoch, pupil's)."""
    kept, pupil = [], 0
    for epoch in range(len(scores)):
        teacher = int(np.argmin(scores[: epoch + 1]))
        pupil = epoch if teacher == epoch or losses[teacher, epoch] < losses[teacher, pupil] else pupil
        kept.append((teacher, pupil))
    return kept


@pytest.mark.parametrize("seed", range(6))
def test_a_follower_is_kept_where_it_does_best_with_what_the_others_make_since_they_were_kept(seed):
    stage = toy()
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=7).round(1).tolist()
    losses = {name: generator.normal(size=(7, 7)) for name in stage.followers}
    expected = {name: by_hand(scores, table) for name, table in losses.items()}
    state = create_state(stage, make_optimizer(SETTINGS, 1), jax.random.key(0))
    finish, follow = (jax.jit(functools.partial(step, stage)) for step in (finish_epoch, keep_followers))

    def validate(variables) -> dict:
        params, stats = variables["params"], variables["batch_stats"]["stats"]
        assert float(params["stats"]["w"][0]) == float(stats)  # a network's collections are kept together
        teacher = int(params["teacher"]["w"][0])
        return {name: jnp.float32(losses[name][teacher, int(params[name]["w"][0])]) for name in stage.followers}

    for epoch in range(7):
        state = state._replace(variables=jax.tree.map(lambda leaf: jnp.full_like(leaf, epoch), state.variables))  # noqa: B023
        state = finish(state, {"score": jnp.float32(scores[epoch])})
        now = with_followers(stage, state)
        assert all(int(now["params"][name]["w"][0]) == epoch for name in stage.followers)
        state = follow(state, validate(now))
        best = state.best_variables["params"]
        for name in stage.followers:
            assert (int(best["teacher"]["w"][0]), int(best[name]["w"][0])) == expected[name][epoch]
            assert int(state.follower_epochs[name]) == expected[name][epoch][1] + 1


@pytest.mark.parametrize(
    ("kept", "now", "better"), [(2, np.nan, False), (np.nan, 2, True), (2, 2, False), (2, 1, True), (1, 2, False)]
)
def test_a_follower_is_exchanged_for_a_lower_loss_alone(kept, now, better):
    stage = toy(("pupil",))
    state = create_state(stage, make_optimizer(SETTINGS, 1), jax.random.key(0))
    state = finish_epoch(stage, state, {"score": jnp.float32(1)})
    state = keep_followers(stage, state, {"pupil": jnp.float32(kept)})
    later = state._replace(variables=jax.tree.map(jnp.zeros_like, state.variables), epoch=jnp.int32(5))
    state = keep_followers(stage, later, {"pupil": jnp.float32(now)})
    assert int(state.follower_epochs["pupil"]) == (5 if better else 1)
    assert float(state.best_variables["params"]["pupil"]["w"][0]) == (0 if better else -1)


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_the_running_mean_of_the_weights_is_what_is_kept(decay):
    """Against a loop in float64: each step forgets at most a share of the mean, the first steps more of it."""

    def loss(variables, batch, key, epoch, axis_name):
        del key, epoch
        stats = {"seen": variables["batch_stats"]["seen"] + batch["x"].sum()}
        return LossValue(jnp.sum((variables["params"]["w"] - batch["x"]) ** 2), {}, {"batch_stats": stats})

    def initialise(key):
        del key
        return {"params": {"w": jnp.array([5.0, -3.0])}, "batch_stats": {"seen": jnp.zeros(())}}

    nothing = lambda *_: None  # noqa: E731
    stage = Stage("toy", initialise, loss, nothing, nothing, average_decay=decay)
    optimizer = make_optimizer(SETTINGS, 1)
    state = create_state(stage, optimizer, jax.random.key(0))
    mean = [np.array([5.0, -3.0]), np.zeros(())]
    for step in range(12):
        batch = {"x": jnp.array([step, 1.0])}
        state, _ = update(stage, optimizer, state, batch, jax.random.key(step))
        now = [np.asarray(state.variables["params"]["w"], np.float64), float(state.variables["batch_stats"]["seen"])]
        share = 1 - min(decay, (1 + step) / (10 + step))
        mean = [(1 - share) * old + share * new for old, new in zip(mean, now, strict=True)]
    kept = finish_epoch(stage, state, {"score": jnp.float32(0)}).best_variables
    np.testing.assert_allclose(kept["params"]["w"], mean[0], rtol=1e-5)
    np.testing.assert_allclose(kept["batch_stats"]["seen"], mean[1], rtol=1e-5)
    assert bool(state.averages) == bool(decay)
