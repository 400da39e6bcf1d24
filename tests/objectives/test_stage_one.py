"""Stage one takes the form of the equivariance loss that its config names."""

import dataclasses

import jax
import numpy as np
import pytest

from eqpool import equivariance_loss
from eqpool.config import RunConfig
from eqpool.data.shape import DataShape
from eqpool.losses.equivariance import unbiased_equivariance_loss
from eqpool.objectives.stage_one import covariate_generators, make_stage_one

LOSSES = {"printed": equivariance_loss, "unbiased": unbiased_equivariance_loss}


@pytest.mark.parametrize("form", list(LOSSES))
def test_the_config_selects_the_form_of_the_equivariance_loss(form):
    base = RunConfig()
    shape = DataShape(inputs=(3,), sites=2, classes=2, covariates=1, nuisances=())
    model = dataclasses.replace(base.model, latent_dim=6)
    stage_config = dataclasses.replace(base.stage_one, equivariance_form=form)
    stage = make_stage_one(dataclasses.replace(base, model=model, stage_one=stage_config), shape)
    random = np.random.default_rng(0)
    rows = {
        "covariate": random.uniform(size=(8, 1)).astype(np.float32),
        "site": np.arange(8, dtype=np.int32) % 2,
        "target": np.arange(8, dtype=np.int32) % 2,
        "target_known": np.ones(8, np.float32),
    }
    outputs = {
        "tau": np.linalg.qr(random.normal(size=(8, 6, 6)))[0].astype(np.float32),
        "prediction": np.zeros((8, 2), np.float32),
        "reconstruction_error": np.zeros(8, np.float32),
    }
    found = stage.validate(jax.tree.map(jax.numpy.asarray, outputs), jax.tree.map(jax.numpy.asarray, rows))
    expected = LOSSES[form](outputs["tau"], rows["covariate"], generator=covariate_generators(model, 1))
    np.testing.assert_allclose(found["equivariance"], expected, rtol=1e-5)
