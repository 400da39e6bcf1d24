"""Both stages as one model: the erasure of sites is fitted, kept and applied with stage two's variables."""

import dataclasses

import jax
import numpy as np
import pytest

from eqpool.config import RunConfig
from eqpool.data.cohort import Scaling
from eqpool.data.shape import DataShape
from eqpool.data.site_effects.erasure import erase_site
from eqpool.data.site_effects.kept import kept_columns
from eqpool.engine.compilation import standard_promotion
from eqpool.engine.selected import selected_variables
from eqpool.engine.session import Session, TrainingData
from eqpool.errors import InputError
from eqpool.methods.networks import PoolingNetworks, pooling_stages, train_networks
from eqpool.storage.run_folder import RunFolder
from tests.engine.train_tiny import tiny_cohort, tiny_config


def erasing(setting: str = "conditional", epochs: int = 1) -> RunConfig:
    config = tiny_config(epochs)
    return dataclasses.replace(config, devices=1, stage_two=dataclasses.replace(config.stage_two, erase_site=setting))


def trained(config: RunConfig, folder: RunFolder | None = None):
    cohort = tiny_cohort("table")
    inputs = np.asarray(cohort.inputs) + 3 * cohort.site[:, None] * np.eye(7, dtype=np.float32)[0]
    cohort = dataclasses.replace(cohort, inputs=inputs)
    data = TrainingData.of(cohort, Scaling.fit(cohort).columns(cohort))
    with standard_promotion():
        networks, embeddings = train_networks(Session.start(config, folder), DataShape.of(cohort), data)
    return networks.on_host(), embeddings, cohort, data


@pytest.fixture(scope="module")
def erased():
    return trained(erasing())


def test_the_erasure_is_that_of_the_training_rows(erased):
    networks, embeddings, cohort, data = erased
    train = data.train
    turned_back = np.einsum("nij,ni->nj", embeddings.tau, embeddings.latent, dtype=np.float64)
    columns = data.columns
    kept = kept_columns(columns["covariate"], columns["target"], columns["target_known"], 2)
    expected = erase_site(turned_back[train], cohort.site[train], kept[train])
    constants = networks.stage_two["constants"]["erasure"]
    np.testing.assert_allclose(constants["projection"], expected.projection, atol=1e-5)
    np.testing.assert_allclose(constants["mean"], expected.mean, atol=1e-6)
    assert np.linalg.matrix_rank(constants["projection"], tol=1e-3) == 5  # of 6: two sites
    np.testing.assert_allclose(networks.apply(cohort.inputs)["phi"], embeddings.phi, atol=1e-5)


def test_networks_without_constants_erase_nothing(erased):
    networks, _, cohort, _ = erased
    without = dataclasses.replace(networks, stage_two={"params": networks.stage_two["params"]})
    plain = dataclasses.replace(without, config=erasing("none"))
    np.testing.assert_array_equal(without.apply(cohort.inputs)["phi"], plain.apply(cohort.inputs)["phi"])
    assert np.abs(networks.apply(cohort.inputs)["phi"] - plain.apply(cohort.inputs)["phi"]).max() > 1e-3


def test_a_run_resumes_and_loads_with_its_erasure(tmp_path):
    folder = RunFolder(tmp_path)
    networks, _, cohort, _ = trained(erasing(), folder)
    config, shape = erasing(), DataShape.of(cohort)
    loaded = PoolingNetworks(
        config, shape, *(selected_variables(stage, folder.checkpoints) for stage in pooling_stages(config, shape))
    )
    for one, other in zip(jax.tree.leaves(networks.stage_two), jax.tree.leaves(loaded.stage_two), strict=True):
        np.testing.assert_array_equal(one, other)
    again = trained(erasing(), folder)[0]
    np.testing.assert_array_equal(again.apply(cohort.inputs)["phi"], networks.apply(cohort.inputs)["phi"])


def test_more_sites_than_dimensions_are_refused():
    cohort = tiny_cohort("table")
    names = tuple("abcdefg")
    cohort = dataclasses.replace(cohort, site=np.arange(26, dtype=np.int32) % 7, site_names=names)
    data = TrainingData.of(cohort, Scaling.fit(cohort).columns(cohort))
    with standard_promotion(), pytest.raises(InputError, match="7 sites leave nothing of a latent of 6 dimensions"):
        train_networks(Session.start(erasing(epochs=0)), DataShape.of(cohort), data)
