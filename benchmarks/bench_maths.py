"""Benchmarks of the maths, forward and gradient: `pytest benchmarks/bench_maths.py --benchmark-enable`.

They are not part of the test run. Every call is compiled and warmed up first, and each result is waited for. The test
names contain the sizes.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from benchmarks.harness import timed
from eqpool import equivariance_loss, equivariance_loss_pairwise, mmd, mmd_permutation_test
from eqpool.evaluate import metrics
from eqpool.geometry import so


def measure(benchmark, function: Callable, *arguments: jax.Array) -> None:
    timed(benchmark, partial(jax.jit(function), *arguments), rounds=10)


def _cayley_by_solve(A: jax.Array) -> jax.Array:
    identity = jnp.broadcast_to(jnp.eye(A.shape[-1]), A.shape)
    return jnp.linalg.solve(identity - A / 2, identity + A / 2)


def rotations(count: int, n: int) -> jax.Array:
    return so.cayley(so.skew(jax.random.normal(jax.random.key(0), (count, n * (n - 1) // 2))))


# Solve is not run with a batch of 4096, because its gradient can deadlock XLA's CPU thread pool.
@pytest.mark.parametrize(
    ("group_map", "count", "n"),
    [
        *[(so.cayley, *size) for size in ((128, 30), (256, 64), (4096, 30))],
        *[(_cayley_by_solve, *size) for size in ((128, 30), (256, 64))],
        *[(so.expm, *size) for size in ((128, 30), (256, 64))],
    ],
)
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "with_gradient"])
def test_group_maps(benchmark, group_map, count, n, gradient):
    A = so.skew(0.3 * jax.random.normal(jax.random.key(0), (count, n * (n - 1) // 2)))
    weight = jax.random.normal(jax.random.key(1), A.shape)
    if not gradient:
        return measure(benchmark, group_map, A)
    return measure(benchmark, jax.value_and_grad(lambda A: jnp.sum(group_map(A) * weight)), A)


@pytest.mark.parametrize(
    ("loss", "group_map", "count", "n"),
    [
        *[(equivariance_loss, "expm", *size) for size in ((128, 30), (1024, 30), (4096, 30), (65_536, 16))],
        *[(equivariance_loss, "cayley", *size) for size in ((128, 30), (1024, 30), (4096, 30))],
        *[(equivariance_loss_pairwise, group_map, 128, 30) for group_map in ("expm", "cayley")],
    ],
)
def test_equivariance_loss(benchmark, loss, group_map, count, n):
    covariate = jax.random.uniform(jax.random.key(1), (count,))
    options = {"generator": so.generator(n, rotation_range=3.0), "group_map": group_map}
    measure(benchmark, jax.value_and_grad(lambda tau: loss(tau, covariate, **options)), rotations(count, n))


@pytest.mark.parametrize(("count", "gradient"), [(128, True), (1024, True), (4096, True), (17_000, False)])
@pytest.mark.parametrize("bandwidth", [1.0, (0.5, 1.0, 2.0), "median"], ids=["one", "three", "median"])
def test_mmd(benchmark, count, gradient, bandwidth):
    latent = jax.random.normal(jax.random.key(0), (count, 30))
    site = jax.random.randint(jax.random.key(1), (count,), 0, 3)
    loss = partial(mmd, site=site, num_sites=3, bandwidth=bandwidth)
    measure(benchmark, jax.value_and_grad(loss) if gradient else loss, latent)


@pytest.mark.parametrize(("count", "permutations"), [(1000, 999), (17_000, 199)])
def test_permutation_test(benchmark, count, permutations):
    latent = jax.random.normal(jax.random.key(0), (count, 30))
    site = jax.random.randint(jax.random.key(1), (count,), 0, 2)

    def run():
        return mmd_permutation_test(jax.random.key(2), latent, site, num_sites=2, num_permutations=permutations)

    timed(benchmark, run, rounds=1, warm_ups=1 if count < 10_000 else 0)


def test_equivariance_gap(benchmark):
    ages = jax.random.uniform(jax.random.key(1), (17_000,), minval=20.0, maxval=90.0)
    measure(benchmark, metrics.equivariance_gap, rotations(17_000, 30), ages)
