"""Scores site calibrations of real brains, half of which a SIMULATED second scanner saw, against their own scans.

Effects are learnt from the training rows of each split, towards the real scanner as the reference, and applied to the
held-out rows. The error of a rescanned row is its root-mean-square difference from the original scan of the same person
inside the brain mask, in z-scores, both with one alignment. What is predictable from each version is that of all
held-out rows. No network is trained.
"""

import argparse
import dataclasses
import pathlib
from typing import Any

import numpy as np

from eqpool.config import DataConfig, RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.load import load_cohort
from eqpool.data.sources.rescanned import SITE
from eqpool.data.sources.volume_calibration import calibrate_volumes
from eqpool.data.volumes.read import prepare_volume
from eqpool.errors import InputError
from eqpool.evaluate.scorecard import RAW
from eqpool.methods.scored_voxels import CALIBRATED
from experiments.comparison import check_splits
from experiments.flags import add_folder, whole_numbers
from experiments.handed_back_scores import score_inputs
from experiments.provenance import made_here, written_by
from experiments.registry import Experiment
from experiments.tables import Measured, mean_and_deviation, table

_KINDS = ("none", "combat", "location", "location_scale")
_COLUMNS = {
    "error": "error to the own scan, z-scores",
    "improved": "rows closer than the input, %",
    "site": "scanner, balanced accuracy",
    "covariate_mae": "age, MAE in years",
    "target_balanced_accuracy": "sex, balanced accuracy",
}
Scores = dict[str, float]


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    add_folder(parser, "--participants", "participants.tsv that eqpool.commands.rescan wrote", required=True)
    add_folder(parser, "--originals", "participants.tsv of the brains that it read", required=True)
    parser.add_argument("--splits", type=whole_numbers, default="0,1,2,3,4", help="comma-separated seeds of the split")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Scores every split."""
    check_splits(options.participants, len(options.splits))
    configs = [_config(options.participants, split) for split in options.splits]
    scores = []
    for config in configs:
        cohort = load_cohort(config, options.runs / "cache")
        scores.append(score_split(cohort, config, options.originals.parent))
    return Measured({"splits": options.splits, "scores": scores}, [made_here(RunConfig(data=configs[0]), 0)])


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table with a row for each version of the volumes."""
    splits = content["scores"]
    rows = [
        [version, *(mean_and_deviation([one[version].get(key) for one in splits], 3) for key in _COLUMNS)]
        for version in splits[0]
    ]
    return "\n".join(
        [
            f"Real brains, the second scanner SIMULATED. {written_by(experiment.name, content)}",
            f"Means (standard deviations) over {len(splits)} splits.",
            "",
            *table(["version", *_COLUMNS.values()], rows),
        ]
    )


def score_split(cohort: Cohort, config: DataConfig, originals: pathlib.Path) -> dict[str, Scores]:
    """Returns the scores of each version of the held-out rows, and of the originals' predictions."""
    assert cohort.volumes is not None
    found = ", ".join(cohort.site_names)
    if SITE not in cohort.site_names or len(cohort.site_names) != 2:
        raise InputError(f"{config.participants}, column site: expected {SITE} and one other, found {found}")
    (reference,) = set(cohort.site_names) - {SITE}
    test = cohort.rows("test")
    again = test[cohort.site_labels[test] == SITE].tolist()
    mask = cohort.volumes.grid.mask
    truth = np.stack([_original(cohort, row, config, originals)[mask] for row in again])
    error: dict[str, np.ndarray] = {}
    scores: dict[str, Scores] = {}
    for kind in _KINDS:
        towards = "" if kind == "none" else reference
        asked = dataclasses.replace(config, site_calibration=kind, reference=towards)  # type: ignore[arg-type]
        made = calibrate_volumes(cohort, asked)
        values = np.stack([made.inputs[row][mask] for row in again])
        error[kind] = np.sqrt(np.mean((values - truth) ** 2, axis=1))
        scores[kind] = {
            "error": float(error[kind].mean()),
            "improved": 100 * float(np.mean(error[kind] < error["none"])),
        } | score_inputs(made, asked, _COLUMNS)[RAW if kind == "none" else CALIBRATED]
    return scores


def _original(cohort: Cohort, row: int, config: DataConfig, originals: pathlib.Path) -> np.ndarray:
    """Returns the prepared original of a rescanned row, aligned as the row is."""
    assert cohort.volumes is not None
    place = pathlib.Path(cohort.volumes.image_path[row]).relative_to(cohort.volumes.image_root)
    alignment = cohort.volumes.facts_of(row).alignment
    return prepare_volume(originals / place, cohort.volumes.grid, alignment=alignment)[0]


def _config(participants: pathlib.Path, split: int) -> DataConfig:
    return DataConfig(
        dataset="adni",
        participants=str(participants),
        target="sex",
        align="affine",
        split_seed=split,
        site_calibration="none",
    )
