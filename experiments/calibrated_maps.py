"""Compares t-maps of the diagnosis of a simulated cohort before and after corrections of the site, with its truth.

Every volume is corrected by effects that were learnt without it (K folds). A map is judged by the order of its voxels'
|t| alone (`eqpool.evaluate.recovery`), so that a correction cannot gain by a shift of all of them. The brains without a
scanner are the last form: no correction of the site should be expected to find more than they do. No network is
trained.
"""

import argparse
import dataclasses
from typing import Any

import numpy as np

from eqpool.commands.make_maps import judged_voxels, t_design
from eqpool.config import DataConfig, RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.load import load_cohort
from eqpool.data.sources.volume_calibration import calibrate_volumes
from eqpool.evaluate.recovery import detection_gain, matched_detection
from eqpool.evaluate.statistics import t_map
from eqpool.methods.crossfit import deal_folds
from eqpool.methods.scored_voxels import scanner_free_brain
from eqpool.storage.progress import track
from experiments.flags import count, count_of_parts, some_of
from experiments.provenance import made_here, written_by
from experiments.registry import Experiment
from experiments.tables import Measured, table, with_interval

_COHORTS, _KINDS = ("adni", "adcp"), ("combat", "location_scale")
Facts = dict[str, Any]


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    parser.add_argument("--cohorts", type=some_of(_COHORTS), default=",".join(_COHORTS), help="simulated cohorts")
    parser.add_argument("--folds", type=count_of_parts, default=3, help="folds of the corrections")
    parser.add_argument("--bootstraps", type=count, default=200, help="draws of people for the intervals")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Makes the maps of every cohort."""
    maps = {}
    for name in options.cohorts:
        config = DataConfig(dataset=name, site_calibration="none")
        cohort = load_cohort(config, options.runs / "cache")
        maps[name] = compare_maps(cohort, config, options.folds, options.bootstraps)
    content = {"folds": options.folds, "bootstraps": options.bootstraps, "maps": maps}
    return Measured(content, [made_here(RunConfig(data=DataConfig(dataset=options.cohorts[0])), 0)])


def compare_maps(cohort: Cohort, config: DataConfig, folds: int, bootstraps: int) -> dict[str, Facts]:
    """Returns the scores of the map of each form, with the gain over the input and its 95 % interval over people."""
    fold = deal_folds(RunConfig(data=config), cohort, folds)
    judged, affected = judged_voxels(cohort)
    rows, contrast, nuisance = t_design(cohort, fold)
    forms = {"input": _voxels(cohort, np.arange(len(fold)), judged)}
    forms |= {kind: _cross_fitted(cohort, config, kind, fold, judged) for kind in _KINDS}
    forms["truth"] = np.stack([scanner_free_brain(cohort, row)[judged] for row in range(len(fold))])
    before, people = forms["input"][rows], cohort.participant_id[rows]
    facts: dict[str, Facts] = {}
    for name, values in track(forms.items(), "Mapping", unit="form"):
        after = values[rows]
        facts[name] = {"affected": int(affected.sum()), "unaffected": int((~affected).sum())}
        facts[name] |= matched_detection(np.abs(t_map([after], contrast, nuisance).t), affected)
        if name != "input":
            tiles = (lambda: [before]), (lambda after=after: [after])
            facts[name] |= detection_gain(*tiles, contrast, nuisance, affected, people, bootstraps=bootstraps)
    return facts


def _cross_fitted(cohort: Cohort, config: DataConfig, kind: Any, fold: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Returns the judged voxels of all rows, corrected by effects that the other folds' rows gave."""
    values = np.empty((len(fold), int(judged.sum())), np.float32)
    for left_out in np.unique(fold):
        here = fold == left_out
        learning = dataclasses.replace(cohort, split=np.where(here, "test", "train"))
        made = calibrate_volumes(learning, dataclasses.replace(config, site_calibration=kind))
        values[here] = _voxels(made, np.flatnonzero(here), judged)
    return values


def _voxels(cohort: Cohort, rows: np.ndarray, judged: np.ndarray) -> np.ndarray:
    assert cohort.volumes is not None
    return np.stack([cohort.inputs[row][cohort.volumes.grid.mask][judged] for row in rows.tolist()])


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns a table with a row for each cohort and form."""
    rows = [
        [
            cohort,
            form,
            f"{facts['sensitivity_at_matched_rate']:.3f}",
            with_interval(facts, "sensitivity_gain", 3) if "sensitivity_gain" in facts else "",
            f"{facts['auc']:.3f}",
        ]
        for cohort, forms in content["maps"].items()
        for form, facts in forms.items()
    ]
    first = next(iter(next(iter(content["maps"].values())).values()))
    head = ["cohort", "volumes", "affected voxels found", "more than in the input", "AUC"]
    return "\n".join(
        [
            f"SIMULATED data. {written_by(experiment.name, content)}",
            f"{content['folds']} folds; {first['affected']} truly affected voxels, at a threshold that 5 % of the "
            f"{first['unaffected']} unaffected ones exceed.",
            "",
            *table(head, rows),
        ]
    )
