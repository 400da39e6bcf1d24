"""Stage two compares sites within the classes of the target, if asked to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool import mmd
from eqpool.config import RunConfig, StageTwoConfig
from eqpool.data.shape import DataShape
from eqpool.objectives.site_terms import kernel_options
from eqpool.objectives.stage_two import make_stage_two, site_term


def rows(count: int = 400) -> dict[str, np.ndarray]:
    """Two sites with other shares of two classes, and some rows of unknown class."""
    random = np.random.default_rng(0)
    site = np.arange(count) % 2
    target = (random.random(count) < np.where(site == 1, 0.8, 0.2)).astype(np.int32)
    known = (np.arange(count) % 5 > 0).astype(np.float32)
    return {
        "site": site.astype(np.int32),
        "covariate": random.uniform(size=(count, 1)).astype(np.float32),
        "target": np.where(known > 0, target, 0).astype(np.int32),
        "target_known": known,
        "mask": np.ones(count, np.float32),
        "latent": (random.normal(size=(count, 3)) + 3 * target[:, None]).astype(np.float32),
    }


@pytest.mark.parametrize("match", ["phi", "covariate_free", "conditional"])
def test_the_site_term_within_classes_ignores_their_shares(match):
    batch = rows()
    config = StageTwoConfig(mmd_match=match, estimator="unbiased")
    latent = jnp.asarray(batch["latent"])
    among_all = float(site_term(config, latent, latent, batch, 2, 2))
    within = float(site_term(dataclasses.replace(config, within_classes=True), latent, latent, batch, 2, 2))
    assert abs(within) < 0.3 * among_all
    numeric = float(site_term(dataclasses.replace(config, within_classes=True), latent, latent, batch, 2, 0))
    assert numeric == among_all  # a numeric target has no classes


def test_rows_of_unknown_class_are_compared_with_each_other():
    batch = rows()
    config = StageTwoConfig(mmd_match="phi", within_classes=True)
    unknown = batch | {"target_known": np.zeros(400, np.float32)}
    latent = jnp.asarray(batch["latent"])
    alone = mmd(latent, batch["site"], **kernel_options(config, 2))
    np.testing.assert_allclose(site_term(config, latent, latent, unknown, 2, 2), alone, rtol=1e-5)


def test_the_adversary_is_told_covariates_and_class():
    base = RunConfig()
    shape = DataShape(inputs=(3,), sites=2, classes=2, covariates=1, nuisances=())
    grown = []
    for within in (False, True):
        settings = dataclasses.replace(base.stage_two, adversary_weight=1.0, within_classes=within)
        stage = make_stage_two(dataclasses.replace(base, stage_two=settings), shape)
        variables = stage.initialise(jax.random.key(0))
        first = variables["params"]["adversary"]["Dense_0"]["kernel"].shape[0]
        grown.append(first - base.model.latent_dim)
        batch = rows() | {"latent": jnp.ones((400, base.model.latent_dim)) / np.sqrt(base.model.latent_dim)}
        batch |= {"tau": jnp.broadcast_to(jnp.eye(base.model.latent_dim), (400,) + (base.model.latent_dim,) * 2)}
        value = stage.loss(variables, batch, jax.random.key(1), jnp.zeros(()))
        assert np.isfinite(value.total) and value.terms["adversary"] > 0
        new_scans = {name: batch[name] for name in ("latent", "tau")}  # without covariates and class
        assert np.isfinite(stage.forward(variables, new_scans)["phi"]).all()
    assert grown == [0, 3]  # a covariate and two classes
