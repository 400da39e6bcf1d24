"""Maps after corrections of the site are those of volumes that the corrections were not learnt from."""

import dataclasses

import numpy as np
import pytest

from eqpool.commands.make_maps import judged_voxels, t_design
from eqpool.data.load import load_cohort
from eqpool.data.sources.volume_calibration import calibrate_volumes
from eqpool.data.splits import assign_folds, balanced_strata
from eqpool.evaluate.recovery import matched_detection
from eqpool.evaluate.statistics import t_map
from eqpool.methods.scored_voxels import scanner_free_brain
from experiments import calibrated_maps
from experiments.registry import EXPERIMENTS
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def cohort_and_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    config = dataclasses.replace(tiny_config(folder).data, site_calibration="none")
    return load_cohort(config, folder / "cache", progress=False), config


def test_each_form_is_mapped_and_corrections_are_cross_fitted(cohort_and_config):
    cohort, config = cohort_and_config
    facts = calibrated_maps.compare_maps(cohort, config, folds=2, bootstraps=3)
    assert list(facts) == ["input", "combat", "location_scale", "truth"] and "sensitivity_gain" not in facts["input"]
    strata = balanced_strata(cohort.site, cohort.target, cohort.target_classes)
    fold = assign_folds(cohort.participant_id, strata, folds=2, seed=0)
    judged, affected = judged_voxels(cohort)
    rows, contrast, nuisance = t_design(cohort, fold)
    made = {"location_scale": [], "truth": []}
    asked = dataclasses.replace(config, site_calibration="location_scale")
    learning = [dataclasses.replace(cohort, split=np.where(fold == one, "test", "train")) for one in range(2)]
    corrected = [calibrate_volumes(one, asked).inputs for one in learning]
    for row in rows:
        made["location_scale"].append(corrected[fold[row]][row][cohort.volumes.grid.mask][judged])
        made["truth"].append(scanner_free_brain(cohort, row)[judged])
    for form, values in made.items():
        t = np.abs(t_map([np.stack(values)], contrast, nuisance).t)
        for name, value in matched_detection(t, affected).items():
            assert facts[form][name] == pytest.approx(value, abs=1e-6)
    assert {facts[form]["affected"] for form in facts} == {int(affected.sum())}


def test_a_table_has_a_row_for_each_form():
    one = {"affected": 9, "unaffected": 90, "sensitivity_at_matched_rate": 0.5, "auc": 0.75}
    gained = one | {"sensitivity_gain": 0.25, "sensitivity_gain_interval": (-0.125, 0.5)}
    content = {"folds": 3, "bootstraps": 10, "maps": {"adni": {"input": one, "truth": gained}}}
    text = calibrated_maps.markdown(EXPERIMENTS["calibrated_maps"], content)
    assert "9 truly affected voxels" in text and "| adni | input | 0.500 |  | 0.750 |" in text
    assert text.endswith("| adni | truth | 0.500 | 0.250 [-0.125, 0.500] | 0.750 |")
