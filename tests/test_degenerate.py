"""Gradients of whole stages at inputs that no one wants and every cohort has; and how far float32 drifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.geometry import so
from tests.engine.test_session import columns, stages

ROWS = 16


def degenerate() -> dict[str, dict[str, np.ndarray]]:
    """Name -> the columns that it changes."""
    whole = columns(ROWS)
    rotations = np.broadcast_to(np.eye(6, dtype=np.float32), (ROWS, 6, 6))
    return {
        "equal latents": {"latent": np.broadcast_to(whole["latent"][:1], whole["latent"].shape), "tau": rotations},
        "zero vectors": {"latent": 0 * whole["latent"], "inputs": 0 * whole["inputs"]},
        "one subject a site": {"site": np.r_[0, 1, 2, np.full(ROWS - 3, -1)].astype(np.int32)},
        "one site": {"site": np.zeros(ROWS, np.int32)},
        "constant features": {"inputs": np.ones_like(whole["inputs"])},
        "huge covariates": {"covariate": 1e6 * whole["covariate"]},
        "equal covariates": {"covariate": 0 * whole["covariate"]},
        "no target known": {"target_known": 0 * whole["target_known"]},
        "one row counts": {"mask": (np.arange(ROWS) == 3).astype(np.float32)},
        "huge features": {"inputs": 1e6 * whole["inputs"]},
    }


@pytest.fixture(scope="module")
def gradients():
    """Compiled once for each stage."""
    made = {}
    for name in ("stage_one_matched", "stage_two_phi", "stage_two_conditional", "stage_two_adversary"):
        stage = stages()[name]

        def loss(params, rest, batch, stage=stage):
            return stage.loss(rest | {"params": params}, batch, jax.random.key(0), jnp.int32(0)).total

        variables = stage.initialise(jax.random.key(1))
        rest = {key: value for key, value in variables.items() if key != "params"}
        made[name] = (jax.jit(jax.value_and_grad(loss)), variables["params"], rest)
    return made


@pytest.mark.parametrize("name", list(degenerate()))
def test_loss_and_gradient_are_finite(gradients, name):
    batch = jax.tree.map(jnp.asarray, columns(ROWS) | degenerate()[name])
    for stage, (compute, params, rest) in gradients.items():
        value, gradient = compute(params, rest, batch)
        assert np.isfinite(value), f"{stage}: {value}"
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)), stage


@pytest.mark.parametrize("n", [3, 30])
def test_drift_over_ten_thousand_compositions(n):
    """Rotations composed 10 000 times in float32: how far from a rotation, and from float64, the product is."""
    upper = np.random.default_rng(n).normal(size=n * (n - 1) // 2) / n
    step64 = np.eye(n)
    skew = np.asarray(so.skew(upper), np.float64)
    for power in range(20, 0, -1):  # Horner's scheme of the exponential series
        step64 = np.eye(n) + skew @ step64 / power
    step32 = so.expm(so.skew(upper.astype(np.float32)))

    def compose(product, _):
        return jnp.matmul(step32, product, precision=jax.lax.Precision.HIGHEST), None

    product32 = np.asarray(jax.jit(lambda: jax.lax.scan(compose, jnp.eye(n), length=10_000)[0])(), np.float64)
    product64 = np.linalg.matrix_power(step64, 10_000)
    departure = np.abs(product32.T @ product32 - np.eye(n)).max()
    assert np.abs(product64.T @ product64 - np.eye(n)).max() < 1e-8
    assert departure < 2e-2, departure
    assert np.abs(product32 - product64).max() < 5e-2
