"""Every stage's training, inference and validation, and the metrics, lower for a TPU from a machine without one.

`tests/methods/test_dry_run.py` lowers the steps of the shipped configs. These are the baselines, both directions and
both deformations of an ISTN, inference and the evaluation, at small sizes.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool import equivariance_gap, mmd_permutation_test
from eqpool.evaluate.adversary import _train_and_apply
from eqpool.evaluate.metrics import equivariance_gap_ratio
from eqpool.geometry import so
from eqpool.losses.equivariance import equivariance_error
from tests.objectives.test_stages_across_devices import LATENT, ROWS, SITES, STAGES, batches, first_state, train


def check_lowers(function, *arguments) -> None:
    """Fails if the program has float64, calls the host, or calls a solver that a TPU lacks."""
    text = jax.export.export(jax.jit(function), platforms=["tpu"])(*arguments).mlir_module()
    assert not re.search(r"f64|callback", text)
    custom = set(re.findall(r"custom_call @(\w+)", text))
    assert not [name for name in custom if re.search("eig|lapack|schur", name)], custom


@pytest.mark.parametrize("name", list(STAGES))
def test_a_stage(name):
    stage, rows = STAGES[name](), batches(name)
    state = jax.eval_shape(partial(first_state, stage))
    check_lowers(partial(train, stage), state, rows)
    batch = jax.tree.map(lambda x: x[0], rows)
    check_lowers(stage.forward, state.variables, batch)
    outputs = jax.eval_shape(stage.forward, state.variables, batch)
    check_lowers(stage.validate, outputs, batch)


def evaluations() -> dict:
    """The metrics that run on the device, as functions of latents, rotations, covariates, sites and a key."""
    generators = so.generator(LATENT, rotation_range=(3.0,))

    def conditional(latent, tau, covariate, site, key):
        return mmd_permutation_test(
            key, latent, site, num_sites=SITES, num_permutations=9, covariate=covariate, stratum=site % 2
        )

    def adversary(latent, tau, covariate, site, key):
        settings = {"num_sites": SITES, "epochs": 2, "learning_rate": 1e-3, "batch_size": 8}
        return _train_and_apply(latent, site, latent, jax.random.split(key, 2), **settings)

    return {
        "mmd": lambda latent, tau, covariate, site, key: mmd_permutation_test(
            key, latent, site, num_sites=SITES, num_permutations=9, bandwidth="median", subject=jnp.arange(ROWS) // 2
        ),
        "conditional mmd": conditional,
        "adversary": adversary,
        "equivariance gap": lambda latent, tau, covariate, site, key: equivariance_gap(tau, covariate),
        "ratio of gaps": lambda latent, tau, covariate, site, key: equivariance_gap_ratio(key, latent, covariate),
        "equivariance error": lambda latent, tau, covariate, site, key: equivariance_error(
            tau, covariate[:, None], generator=generators
        ),
    }


@pytest.mark.parametrize("name", list(evaluations()))
def test_evaluation(name):
    random = np.random.default_rng(0)
    arrays = [random.normal(size=(ROWS, LATENT)), random.normal(size=(ROWS, LATENT, LATENT)), random.uniform(size=ROWS)]
    site = jnp.asarray(random.integers(0, SITES, ROWS), jnp.int32)
    check_lowers(evaluations()[name], *(jnp.asarray(array, jnp.float32) for array in arrays), site, jax.random.key(0))
