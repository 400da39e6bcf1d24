"""The scale of the networks' change from a cohort to the run folder and back, on networks whose worth is known."""

import dataclasses
import json

import numpy as np
import pytest

from eqpool.config import OutputConfig
from eqpool.data.cohort import Scaling
from eqpool.methods.change import read_change_scale, with_change_scale_of, with_chosen_change_scale
from eqpool.methods.decoding import pool_volumes, prepared_rows
from eqpool.methods.facts import ModelFacts
from eqpool.methods.latent_model import LatentModel
from eqpool.storage.run_folder import RunFolder
from tests.engine.train_tiny import tiny_cohort, tiny_config

OFFSET = 2.0


def two_sites(kind: str, rows: int = 26):
    """A cohort whose second site has `OFFSET` added to its first feature, or to the first slab of its volumes."""
    cohort = tiny_cohort(kind)
    site = (np.arange(rows) % 2).astype(np.int32)
    inputs = 0.3 * np.asarray(cohort.inputs)
    inputs[:, 0] += OFFSET * site.reshape(-1, *[1] * (inputs.ndim - 2))
    return dataclasses.replace(cohort, inputs=inputs, site=site)


def networks(cohort, pooled, change_scale="auto") -> LatentModel:
    """A model whose latent is the input itself and whose pooling is `pooled`."""
    config = dataclasses.replace(tiny_config(0), output=OutputConfig(change_scale=change_scale))
    shape = cohort.inputs.shape[1:]

    def encode(rows):
        flat = rows.reshape(len(rows), -1)
        return {"latent": flat, "pooled_latent": pooled(rows).reshape(len(rows), -1)}

    facts = ModelFacts.of(cohort, Scaling.fit(cohort))
    return LatentModel(config, facts, encode, lambda latent: latent.reshape(-1, *shape))


def without_offset(rows):
    """Takes the second site's offset back: it shows in the mean of the first feature or slab."""
    changed = rows.copy()
    mean = rows[:, 0].reshape(len(rows), -1).mean(axis=1)
    changed[:, 0] -= OFFSET * (mean > OFFSET / 2).reshape(-1, *[1] * (rows.ndim - 2))
    return changed


@pytest.mark.parametrize("kind", ["table", "volumes"])
def test_networks_that_remove_the_site_are_applied_in_full(kind, tmp_path):
    cohort, folder = two_sites(kind), RunFolder(tmp_path)
    model = with_chosen_change_scale(folder, networks(cohort, without_offset), cohort, Scaling.fit(cohort))
    assert model.change_scale > 0.9
    facts = json.loads(folder.change_file.read_text())
    assert facts["scale"] == model.change_scale == read_change_scale(folder) and facts["rows"] == 6
    assert facts["site_after"] < 0.2 * facts["site_before"]
    assert "on 6 validation rows" in folder.log_file.read_text()


@pytest.mark.parametrize("kind", ["table", "volumes"])
@pytest.mark.parametrize("pooled", [lambda rows: 0.4 * rows, lambda rows: rows - without_offset(rows) + rows])
def test_networks_that_harm_are_not_applied(kind, pooled, tmp_path):
    cohort, folder = two_sites(kind), RunFolder(tmp_path)
    if pooled(np.ones((1, 2)))[0, 0] == 0.4:  # shrinking removes some of a site's offset, so have none
        cohort = dataclasses.replace(cohort, inputs=without_offset(cohort.inputs))
    model = with_chosen_change_scale(folder, networks(cohort, pooled), cohort, Scaling.fit(cohort))
    assert model.change_scale == 0
    assert "not applied" in folder.log_file.read_text()


def test_a_given_scale_is_not_measured_and_a_chosen_one_stays(tmp_path):
    cohort, folder = two_sites("table"), RunFolder(tmp_path)
    given = networks(cohort, without_offset, "0.25")
    assert with_chosen_change_scale(folder, given, cohort, Scaling.fit(cohort)).change_scale == 0.25
    auto = networks(cohort, without_offset)
    assert with_chosen_change_scale(folder, auto, cohort, Scaling.fit(cohort)).change_scale == 0.25


def test_the_test_rows_have_no_say(tmp_path):
    cohort = two_sites("table")
    spoilt = np.where((cohort.split == "test")[:, None], 1e6, cohort.inputs)
    scales = [
        with_chosen_change_scale(
            RunFolder(tmp_path / str(number)), networks(made, without_offset), made, Scaling.fit(made)
        )
        for number, made in enumerate((cohort, dataclasses.replace(cohort, inputs=spoilt)))
    ]
    assert scales[0].change_scale == scales[1].change_scale


def test_too_few_validation_rows_leave_the_choice_to_the_training_rows(tmp_path):
    cohort, folder = two_sites("table"), RunFolder(tmp_path)
    cohort = dataclasses.replace(cohort, site=np.where(cohort.split == "validation", 0, cohort.site))
    model = with_chosen_change_scale(folder, networks(cohort, without_offset), cohort, Scaling.fit(cohort))
    assert model.change_scale > 0.9 and "train rows" in folder.log_file.read_text()
    alone = dataclasses.replace(cohort, site=np.zeros_like(cohort.site))
    other = RunFolder(tmp_path / "alone")
    model = with_chosen_change_scale(other, networks(alone, without_offset), alone, Scaling.fit(alone))
    assert model.change_scale == 0 and "no site effect can be measured" in other.log_file.read_text()


def test_a_run_of_a_version_without_scales_is_applied_in_full(tmp_path):
    cohort = two_sites("volumes")
    model = with_change_scale_of(RunFolder(tmp_path), networks(cohort, without_offset))
    assert model.change_scale == 1
    half = dataclasses.replace(model, change_scale=0.5)
    whole, scaled = (next(pool_volumes(one, prepared_rows(cohort, [1]))).change for one in (model, half))
    assert np.abs(whole).max() > 1
    np.testing.assert_allclose(scaled, 0.5 * whole)
