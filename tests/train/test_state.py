"""Which epochs are kept: the stage's best one, and of a network that learns from the others one of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.train.state import (
    LossValue,
    Stage,
    create_state,
    finish_epoch,
    keep_followers,
    make_optimizer,
    update,
    with_followers,
)
from tests.train.test_loop import SETTINGS


def toy(followers: tuple[str, ...] = ("pupil", "stats")) -> Stage:
    """A teacher and its pupils, one of them with batch statistics; every number is that of its epoch."""

    def initialise(key):
        del key
        names = ("teacher", *followers)
        return {"params": {name: {"w": jnp.full(2, -1.0)} for name in names}, "batch_stats": {"stats": jnp.array(-1.0)}}

    nothing = lambda *_: None  # noqa: E731
    return Stage("toy", initialise, nothing, nothing, nothing, followers=followers)


def by_hand(scores: list[float], losses: list[float]) -> tuple[int, int]:
    """The teacher's kept epoch and the pupil's: the lowest score; from then on the lowest loss."""
    teacher = int(np.argmin(scores))
    return teacher, teacher + int(np.argmin(losses[teacher:]))


@pytest.mark.parametrize("seed", range(6))
def test_a_follower_is_kept_at_its_own_lowest_loss_since_the_others_were(seed):
    stage = toy()
    generator = np.random.default_rng(seed)
    scores, pupil, stats = (generator.normal(size=7).round(1).tolist() for _ in range(3))
    state = create_state(stage, make_optimizer(SETTINGS, 1), jax.random.key(0))
    finish, follow = (jax.jit(functools.partial(step, stage)) for step in (finish_epoch, keep_followers))
    for epoch in range(7):
        state = state._replace(variables=jax.tree.map(lambda leaf: jnp.full_like(leaf, epoch), state.variables))  # noqa: B023
        state = finish(state, {"score": jnp.float32(scores[epoch])})
        judged = with_followers(stage, state)
        assert float(judged["params"]["teacher"]["w"][0]) == by_hand(scores[: epoch + 1], pupil[: epoch + 1])[0]
        assert float(judged["params"]["pupil"]["w"][0]) == float(judged["batch_stats"]["stats"]) == epoch
        state = follow(state, {"pupil": jnp.float32(pupil[epoch]), "stats": jnp.float32(stats[epoch])})
    best = state.best_variables
    assert (int(best["params"]["teacher"]["w"][0]), int(best["params"]["pupil"]["w"][0])) == by_hand(scores, pupil)
    kept = by_hand(scores, stats)[1]
    assert int(best["params"]["stats"]["w"][0]) == int(best["batch_stats"]["stats"]) == kept
    assert float(state.follower_scores["stats"]) == pytest.approx(stats[kept])


def test_a_follower_whose_loss_is_not_a_number_is_not_kept():
    stage = toy(("pupil",))
    state = create_state(stage, make_optimizer(SETTINGS, 1), jax.random.key(0))
    state = keep_followers(stage, finish_epoch(stage, state, {"score": jnp.float32(1)}), {"pupil": jnp.float32(2)})
    later = state._replace(variables=jax.tree.map(jnp.zeros_like, state.variables))
    kept = keep_followers(stage, later, {"pupil": jnp.float32(jnp.nan)})
    assert float(kept.best_variables["params"]["pupil"]["w"][0]) == -1 and float(kept.follower_scores["pupil"]) == 2


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_the_running_mean_of_the_weights_is_what_is_kept(decay):
    """Against a loop in float64: each step forgets at most a share of the mean, the first steps more of it."""

    def loss(variables, batch, key, epoch):
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
