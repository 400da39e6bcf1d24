"""The site terms of the baselines on a batch joined with earlier rows, beside float64 loops over pairs of rows."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.config import BaselineConfig, ModelConfig, RunConfig
from eqpool.data.shape import DataShape
from eqpool.engine.state import create_state, make_optimizer, update
from eqpool.losses.matching import matched_distance
from eqpool.objectives.baselines import QUEUE, make_baseline
from eqpool.objectives.latent_queue import LABELS, empty_queue, joined, pushed, whole_gradient

LENGTH, BATCH, SITES, BANDWIDTH = 14, 6, 3, 0.5


def batch(number: int) -> dict[str, np.ndarray]:
    """Six rows of 40, some of them in earlier batches too: one padded, one without a site."""
    generator = np.random.default_rng(number)
    scan = generator.permutation(40)[:BATCH]
    columns = {
        "scan": scan, "site": scan % SITES, "decile": scan % 2, "match": scan % 2 + 10 * (scan % 4 // 2),
        "target": scan % 4 // 2,
    }  # fmt: skip
    columns = {name: value.astype(np.int32) for name, value in columns.items()}
    columns["site"][1] = -1
    columns["mask"] = np.array([1, 1, 1, 1, 1, 0], np.float32)
    columns["target_known"] = np.ones(BATCH, np.float32)
    inputs = generator.normal(size=(BATCH, 5)).astype(np.float32)
    return columns | {"inputs": inputs, "latent": inputs[:, :2]}


def test_the_queue_holds_the_last_rows_once_each_as_last_seen():
    queue, seen = empty_queue(LENGTH, 2), []
    for number in range(8):
        rows = batch(number)
        here = [scan for scan, mask in zip(rows["scan"], rows["mask"], strict=True) if mask]
        compared = joined(queue, rows)
        older = [scan for scan, mask in zip(compared["scan"], compared["mask"], strict=True) if mask][len(here) :]
        kept = [slot[0] for slot in seen[-LENGTH:] if slot and slot[0] not in here]
        assert older == kept
        queue = pushed(queue, rows)
        seen = [slot if slot and slot[0] not in here else None for slot in seen]
        seen += [
            (int(scan), latent) if mask else None
            for scan, latent, mask in zip(rows["scan"], rows["latent"], rows["mask"], strict=True)
        ]
        expected = {slot[0]: slot[1] for slot in seen[-LENGTH:] if slot}
        valid = np.flatnonzero(np.asarray(queue["mask"]))
        found = {int(queue["scan"][slot]): np.asarray(queue["latent"][slot]) for slot in valid}
        assert len(valid) == len(found) and found.keys() == expected.keys()
        for scan, latent in expected.items():
            np.testing.assert_array_equal(found[scan], latent)


def unbiased_mmd(latent: np.ndarray, site: np.ndarray) -> float | None:
    """The sum over pairs of sites, each with two rows or more; None with fewer than two such sites."""
    groups = [latent[site == one] for one in range(SITES) if np.sum(site == one) > 1]
    if len(groups) < 2:
        return None

    def mean(one, other):
        values = [
            np.exp(-np.linalg.norm(a - b) / BANDWIDTH)
            for i, a in enumerate(one) for j, b in enumerate(other)
            if one is not other or i != j
        ]  # fmt: skip
        return np.mean(values)

    return sum(mean(a, a) + mean(b, b) - 2 * mean(a, b) for a, b in itertools.combinations(groups, 2))


def expected_term(method: str, queue: dict) -> float:
    """The term over all rows of a queue that have a site, by loops."""
    counts = (queue["mask"] > 0) & (queue["site"] >= 0)
    latent, rows = np.float64(queue["latent"])[counts], {name: queue[name][counts] for name in LABELS}
    if method == "mmd":
        return unbiased_mmd(latent, rows["site"])
    if method == "ss":
        each = [unbiased_mmd(latent[rows["decile"] == one], rows["site"][rows["decile"] == one]) for one in range(10)]
        return np.mean([value for value in each if value is not None])
    pairs = itertools.permutations(range(len(latent)), 2)
    matched = [(i, j) for i, j in pairs if rows["match"][i] == rows["match"][j] and rows["site"][i] != rows["site"][j]]
    return np.mean([np.sum((latent[i] - latent[j]) ** 2) for i, j in matched])


@pytest.mark.parametrize("method", ["mmd", "ss", "rm"])
def test_the_term_of_a_step_is_that_of_the_joined_rows(method):
    """After a step the queue holds what the step compared, as long as no slot has gone."""
    settings = BaselineConfig(queue_rows=64, bandwidth=str(BANDWIDTH), learning_rate=1e-2)
    config = RunConfig(method=method, model=ModelConfig(latent_dim=3, hidden_units=8), baseline=settings)
    stage, optimizer = make_baseline(config, DataShape((5,), 1, SITES, 2)), make_optimizer(settings, 1)
    state = create_state(stage, optimizer, jax.random.key(0))
    step = jax.jit(lambda state, rows: update(stage, optimizer, state, rows, jax.random.key(1)))
    for number in range(4):
        state, terms = step(state, {name: value for name, value in batch(number).items() if name != "latent"})
    queue = jax.device_get(state.variables[QUEUE])
    assert np.sum(queue["mask"]) > 2 * BATCH
    np.testing.assert_allclose(terms["site"], expected_term(method, queue), rtol=2e-5)


def test_the_gradients_of_batches_average_to_that_of_all_rows():
    """With everybody else in the queue, by a linear encoder, whose latents move no further."""
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(18, 4)), np.arange(18, dtype=np.int32)
    columns = {"scan": labels, "site": labels % 3, "decile": labels % 2, "match": labels % 2}
    weights = jnp.asarray(generator.normal(size=(4, 2)))
    everyone = columns | {"mask": np.ones(18, np.float32)}

    def term(rows):
        return matched_distance(rows["latent"], rows["site"], rows["match"], num_sites=3, mask=rows["mask"])

    def of_batch(weights, here):
        part = {name: value[here] for name, value in everyone.items()} | {"latent": inputs[here] @ weights}
        others = everyone | {"latent": jnp.asarray(inputs) @ weights}
        compared = joined(others, part)
        return whole_gradient(term(compared), compared, part)

    whole = jax.grad(lambda weights: term(everyone | {"latent": inputs @ weights}))(weights)
    parts = [jax.grad(of_batch)(weights, np.arange(start, start + 6)) for start in (0, 6, 12)]
    np.testing.assert_allclose(np.mean(parts, axis=0), whole, rtol=1e-4)


@pytest.mark.parametrize("method", ["mmd", "cai"])
def test_without_a_queue_a_batch_is_compared_with_itself(method):
    settings = BaselineConfig(queue_rows=0, bandwidth=str(BANDWIDTH))
    config = RunConfig(method=method, model=ModelConfig(latent_dim=3, hidden_units=8), baseline=settings)
    stage = make_baseline(config, DataShape((5,), 1, SITES, 2))
    variables = stage.initialise(jax.random.key(0))
    assert QUEUE not in variables
    rows = {name: value for name, value in batch(0).items() if name != "latent"}
    value = stage.loss(variables, rows, jax.random.key(0), jnp.int32(0))
    assert np.isfinite(value.total) and QUEUE not in value.batch_stats
