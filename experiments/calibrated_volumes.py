"""Scores site calibrations of simulated volumes against their scanner-free truth, without networks.

Effects are learnt from the training rows of each split and applied to its held-out rows. Their root-mean-square error
to the truth inside the brain mask, in z-scores, is averaged. "ComBat" is `eqpool.data.site_effects.combat` at every
voxel. "site not given" predicts the site of each held-out row. The last rows leave out each site in turn and
calibrate it from some of its controls. What is predictable from each version is the scorecard of a run
(`eqpool.methods.handed_back`).
"""

import argparse
import dataclasses
from typing import Any

import numpy as np

from eqpool.config import DataConfig, RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.load import load_cohort
from eqpool.data.site_effects.combat import Combat
from eqpool.data.site_effects.voxelwise import VoxelCalibration
from eqpool.data.sources.volume_calibration import calibrate_volumes
from eqpool.methods.scored_voxels import scanner_free_brain
from experiments.flags import some_of, whole_numbers
from experiments.handed_back_scores import score_inputs
from experiments.provenance import made_here, written_by
from experiments.registry import Experiment
from experiments.tables import Measured, mean_and_deviation, table

_COHORTS, _CONTROLS = ("adni", "adcp"), (5, 10, 20)
_PREDICTED = {
    "site": "site, balanced accuracy",
    "covariate_mae": "age, MAE in years",
    "target_balanced_accuracy": "diagnosis, balanced accuracy",
}


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    parser.add_argument("--cohorts", type=some_of(_COHORTS), default=",".join(_COHORTS), help="simulated cohorts")
    parser.add_argument("--splits", type=whole_numbers, default="0,1,2,3,4", help="comma-separated seeds of the split")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Scores every cohort and split."""
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in options.cohorts}
    predicted: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in options.cohorts}
    for name in options.cohorts:
        for split in options.splits:
            config = DataConfig(dataset=name, split_seed=split, site_calibration="location_scale")
            cohort = load_cohort(config, options.runs / "cache")
            scores[name].append(score_split(cohort, config))
            predicted[name].append(score_inputs(cohort, config, _PREDICTED))
    content = {"splits": options.splits, "scores": scores, "predicted": predicted}
    return Measured(content, [made_here(RunConfig(data=DataConfig(dataset=options.cohorts[0])), 0)])


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table with a row for each version of the volumes."""
    scores = content["scores"]
    versions = list(dict.fromkeys(name for split in scores.values() for name in split[0]))
    rows = [
        [version, *(mean_and_deviation([one.get(version) for one in splits], 3) for splits in scores.values())]
        for version in versions
    ]
    head = f"SIMULATED data. {written_by(experiment.name, content)}"
    return "\n".join(
        [
            head,
            f"Means (standard deviations) over {len(content['splits'])} splits.",
            "",
            *table(["version", *scores], rows),
            "",
            "What is predictable from the held-out rows' principal components, by the strongest of several probes:",
            "",
            *table(
                ["version", *(f"{name}, {text}" for name in scores for text in _PREDICTED.values())], _cells(content)
            ),
        ]
    )


def _cells(content: dict[str, Any]) -> list[list[str]]:
    """Returns a row of cells for each version: raw, ComBat, calibrated and the truth."""
    predicted = content["predicted"]
    versions = next(iter(predicted.values()))[0]
    return [
        [
            version,
            *(
                mean_and_deviation([split[version].get(key) for split in splits], 3)
                for splits in predicted.values()
                for key in _PREDICTED
            ),
        ]
        for version in versions
    ]


def score_split(cohort: Cohort, config: DataConfig) -> dict[str, float]:
    """Returns the score of each version of the held-out rows of one split."""
    cohort = dataclasses.replace(cohort, inputs=cohort.uncalibrated)
    assert cohort.volumes is not None
    mask, test, names = cohort.volumes.grid.mask, cohort.rows("test"), cohort.site_labels
    truth = np.stack([scanner_free_brain(cohort, row) for row in test.tolist()])
    raw = np.stack([cohort.inputs[row][mask] for row in range(len(names))])

    def error(made: np.ndarray, rows: np.ndarray | slice = slice(None)) -> float:
        return float(np.sqrt(np.mean((made - truth[rows]) ** 2, axis=1)).mean())

    def calibrated(kind: Any, **changes: Any) -> Cohort:
        return calibrate_volumes(
            dataclasses.replace(cohort, **changes), dataclasses.replace(config, site_calibration=kind)
        )

    def voxels(made: Cohort) -> np.ndarray:
        return np.stack([made.inputs[row][mask] for row in test])

    whole = calibrated("location_scale")
    unknown = np.where(cohort.split == "test", -1, cohort.site).astype(np.int32)
    scores = {
        "input": error(raw[test]),
        "ComBat": error(_combat(cohort, raw, names)),
        "location": error(voxels(calibrated("location"))),
        "location_scale": error(voxels(whole)),
        "location_scale, site not given": error(voxels(calibrated("location_scale", site=unknown))),
    }
    scores |= _kept_maps(cohort, truth, {"input": raw[test], "location_scale": voxels(whole)})
    return scores | _new_site(cohort, calibrated, raw, names, error)


def _combat(cohort: Cohort, raw: np.ndarray, names: np.ndarray) -> np.ndarray:
    train, test = cohort.rows("train"), cohort.rows("test")
    combat = Combat.fit(raw[train], names[train], cohort.covariates[train], cohort.target_columns[train])
    return combat.apply(raw[test], names[test])


def _kept_maps(cohort: Cohort, truth: np.ndarray, versions: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns how much of the true maps of age and target each version's maps have, 1 for as much."""
    test = cohort.rows("test")
    member = (cohort.site[test][:, None] == np.arange(len(cohort.site_names))[None]).astype(np.float64)
    terms = np.concatenate([member, cohort.covariates[test], cohort.target_columns[test]], axis=1)
    solver = np.linalg.pinv(terms)[member.shape[1] :]
    expected = solver @ truth
    labels = (cohort.covariate_names[0], cohort.target_name)
    scores = {}
    for name, values in versions.items():
        for label, found, whole in zip(labels, solver @ values, expected, strict=True):
            scores[f"map of {label} in {name}, share of the truth's"] = float(found @ whole / (whole @ whole))
    return scores


def _new_site(cohort: Cohort, calibrated: Any, raw: np.ndarray, names: np.ndarray, error: Any) -> dict[str, float]:
    """Returns the mean error over sites that are left out in turn and calibrated from none or some controls."""
    assert cohort.volumes is not None
    test, columns, rows = cohort.rows("test"), cohort.target_columns, np.arange(len(names))
    healthy = (cohort.split == "train") & (cohort.target == len(cohort.target_classes) - 1)
    scores: dict[str, list[float]] = {}
    for index, site in enumerate(cohort.site_names):
        here = np.flatnonzero(names[test] == site)
        without = calibrated("location_scale", site=np.where(names == site, -1, cohort.site).astype(np.int32))
        calibration: VoxelCalibration = without.volumes.calibration
        controls = np.random.default_rng(index).permutation(rows[healthy & (names == site)])
        scores.setdefault("a new site, input", []).append(error(raw[test][here], here))
        for count in (0, *(count for count in _CONTROLS if count <= len(controls))):
            few = controls[:count]
            known = calibration
            if count:
                known = calibration.with_site(site, raw[few], cohort.covariates[few], columns[few])
            made = np.stack(
                [known.apply(cohort.inputs[row], site)[cohort.volumes.grid.mask] for row in test[here].tolist()]
            )
            scores.setdefault(f"a new site, {count} controls", []).append(error(made, here))
    return {name: float(np.mean(values)) for name, values in scores.items() if len(values) == len(cohort.site_names)}
