"""The whole way from volumes to a map, with diagnoses that are shuffled: what the map shows is the networks' memory."""

import dataclasses
import pathlib

import numpy as np
import pytest

from eqpool.commands.make_maps import FORMS, form_tiles
from eqpool.config import RunConfig, StageOneConfig, StageTwoConfig
from eqpool.data.cohort import Cohort
from eqpool.data.load import load_cohort
from eqpool.evaluate.statistics import indicators, t_map
from eqpool.methods.crossfit import Decodes, _train, cross_fitted_decodes
from eqpool.methods.decoding import pool_volumes, prepared_rows
from eqpool.methods.linear_decoder import complete_decoder
from eqpool.methods.pooling import Pooling
from eqpool.storage.run_folder import RunFolder
from tests.conftest import tiny_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compile")]
SHUFFLES = 2


def settings(folder: pathlib.Path) -> RunConfig:
    """Networks that learn the diagnosis of 37 subjects by heart."""
    tiny = tiny_config(folder)
    return dataclasses.replace(
        tiny,
        data=dataclasses.replace(tiny.data, simulated_fraction=0.3),
        stage_one=StageOneConfig(epochs=15, batch_size=8, prediction_weight=5.0, learning_rate=1e-2),
        stage_two=StageTwoConfig(
            epochs=40, batch_size=16, prediction_weight=5.0, mmd_weight=0.0, learning_rate=1e-2
        ),
    )  # fmt: skip


def decodes_of_all(config: RunConfig, cohort: Cohort, folder: pathlib.Path) -> Decodes:
    """What one run makes of the volumes that it was trained on."""
    split = np.full(len(cohort.site), "train", "<U10")
    split[:: len(split) // 4] = "validation"
    seen = dataclasses.replace(cohort, split=split)
    run = RunFolder(folder)
    run.claim(config)
    _train(config, seen, run)
    stream = pool_volumes(complete_decoder(run, Pooling().load(run), seen), prepared_rows(seen, range(len(split))))
    mask, values = cohort.volumes.grid.mask, np.zeros((4, len(split), int(cohort.volumes.grid.mask.sum())), np.float32)
    for pooled in stream:
        values[:, pooled.row] = (
            pooled.inputs[mask], pooled.original[mask], pooled.pooled[mask], pooled.inputs[mask]
        )  # fmt: skip
    return Decodes(values, np.zeros(len(split), int))


def found(cohort: Cohort, decodes: Decodes, form: str) -> float:
    """The share of voxels with p < 0.05 for the diagnosis."""
    rows = np.arange(len(cohort.site))
    nuisance = np.hstack([cohort.covariates, indicators(decodes.fold)])
    return np.mean(t_map(form_tiles(decodes, form, rows), (cohort.target == 0).astype(float), nuisance).p < 0.05)


def test_a_shuffled_diagnosis_shows_where_networks_saw_it_and_nowhere_else(tmp_path):
    config = settings(tmp_path)
    cohort = load_cohort(config.data, tmp_path / "cache", progress=False)
    generator = np.random.default_rng(0)
    seen, unseen = [], []
    for number in range(SHUFFLES):
        shuffled = dataclasses.replace(cohort, target=generator.permutation(cohort.target))
        cross_fitted = cross_fitted_decodes(config, shuffled, RunFolder(tmp_path / f"folds-{number}"), folds=2)
        unseen.append([found(shuffled, cross_fitted, form) for form in FORMS])
        in_sample = decodes_of_all(config, shuffled, tmp_path / f"all-{number}")
        seen.append(found(shuffled, in_sample, "before_decoded"))
    assert np.mean(seen) > 0.2  # or the networks learnt nothing by heart, and the next line shows nothing
    assert np.max(np.mean(unseen, axis=0)) < 0.1  # 0.05 nominally; all voxels follow a handful of latents
