"""Compares results on the simulated cohort with its known truth.

Calibration measures the accuracy of a logistic probe for the scanner from raw voxels, and of a naive encoder for the
diagnosis and age. Recovery measures the distance of volumes to the scanner-free ones, and the share of the true effect
that the t-map finds, before and after pooling, on cross-fitted decodes. The experiment trains a naive run and K + 1
runs of ours.
"""

import argparse
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from eqpool.commands.make_maps import make_maps
from eqpool.config import DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.load import load_cohort
from eqpool.evaluate.intervals import balanced_accuracy, bootstrap_interval
from experiments.flags import count_of_parts
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.runner import Task, run_all
from experiments.tables import Measured, table, with_interval

# Accepted ranges (label, lowest, highest) for which the simulated cohort is as hard as real ones.
TARGETS = {
    "scanner_from_voxels": ("scanner from raw voxels, logistic, balanced accuracy %", 90.0, 100.0),
    "naive_accuracy": ("AD or CN by a naive encoder, accuracy %", 75.0, 90.0),
    "naive_age_mae": ("age by a naive encoder, MAE in years", 5.0, 8.0),
}
ROWS = (
    ("recovery_error", "error to the scanner-free volume, z-scores"),
    ("r2_site_mean", "partial R^2 of the site, mean over voxels"),
    ("r2_age_mean", "partial R^2 of age, mean"),
    ("r2_dx_mean", "partial R^2 of the diagnosis, mean"),
    ("voxels_fdr", "voxels found, FDR p < 0.001"),
    ("truth_voxels", "truly affected voxels"),
    ("unaffected_voxels", "truly unaffected voxels"),
    ("sensitivity_fdr", "of the truly affected, FDR"),
    ("specificity_fdr", "of the unaffected left alone, FDR"),
    ("sensitivity_bonferroni", "of the truly affected, Bonferroni"),
    ("sensitivity_at_matched_rate", "of the truly affected, with 5 % of the unaffected"),
    ("auc", "AUC of the map for the truth"),
)


def scanner_from_voxels(cohort: Cohort, seed: int = 0) -> dict[str, Any]:
    """Returns the balanced accuracy (percent) of a logistic probe for the site, with 5 folds over subjects.

    The probe is fitted on all principal components of the z-scored voxels of its training rows. This loses nothing,
    because there are fewer rows than voxels. L2-penalised logistic regression gives the same predictions on both.
    """
    assert cohort.volumes is not None
    rows = np.flatnonzero(cohort.site >= 0)
    voxels = np.stack([cohort.uncalibrated[row][cohort.volumes.grid.mask] for row in rows])
    probe = make_pipeline(PCA(), LogisticRegression(C=1e-3, max_iter=2000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    predicted = cross_val_predict(probe, voxels, cohort.site[rows], groups=cohort.participant_id[rows], cv=folds)
    truth = cohort.site[rows]

    def score(chosen: np.ndarray) -> float:
        return 100 * balanced_accuracy(truth[chosen], predicted[chosen])

    interval = bootstrap_interval(score, len(rows), 500, seed, cohort.participant_id[rows])
    return {"scanner_from_voxels": score(np.arange(len(rows))), "scanner_from_voxels_interval": interval}


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    parser.add_argument("--config", default="adni", choices=("adni", "adcp"), help="which simulated cohort")
    parser.add_argument("--folds", type=count_of_parts, default=3, help="of the maps")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of each site that is simulated")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Trains the runs, or resumes them, and computes the measurements."""
    runs, cache = options.runs / f"{experiment.name}_{options.config}", options.runs / "cache"
    fixed = {"cache_dir": str(cache), "data.simulated_fraction": options.fraction, "output.harmonised": "none"}
    tasks = [Task(options.config, "", fixed | {"method": method}, runs / method) for method in ("naive", "ours")]
    naive, ours = run_all(tasks, 1, experiment.name)
    maps = make_maps(runs / "ours", options.folds)
    data = DataConfig(dataset=options.config, simulated_fraction=options.fraction)
    measured = scanner_from_voxels(load_cohort(data, cache))
    for name, key in (("naive_accuracy", "accuracy"), ("naive_age_mae", "kept_age_mae")):
        measured |= {name: naive["metrics"][key], f"{name}_interval": naive["metrics"].get(f"{key}_interval")}
    content = {"config": options.config, "fraction": options.fraction}
    content |= {"calibration": measured, "maps": maps, "ours": ours}
    return Measured(content, [naive, ours], f"_{options.config}")


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the tables of calibration, with its accepted ranges, and of recovery before and after pooling."""
    ours, maps, measured = content["ours"], content["maps"], content["calibration"]
    forms = maps["forms"]
    first = next(iter(forms.values()))
    asked = [
        [label, with_interval(measured, key, 1), f"{low:g} to {high:g}"] for key, (label, low, high) in TARGETS.items()
    ]
    rows = [
        [label if "unaffected_voxels" in first else label.replace("unaffected", "others"), *_numbers(forms, key)]
        for key, label in ROWS
        if key in first
    ]
    lines = [
        f"SIMULATED data, configs/{ours['dataset']}.py. {written_by(experiment.name, content, ours)}",
        f"Seed {ours['seed']}.",
        "",
        *table(["calibration", "measured", "asked"], asked),
        "",
        f"{first['rows']} volumes, each decoded by networks that never saw it ({maps['folds']} folds).",
    ]
    if "unaffected_voxels" not in first:
        lines.append('"Others" are all voxels beyond a quarter of the largest effect: an older definition.')
    lines += ["", *table(["measure", *(form.replace("_", ", ") for form in forms)], rows)]
    return "\n".join(lines)


def _numbers(forms: dict[str, dict[str, Any]], key: str) -> list[str]:
    return [f"{form[key]:.4g}" for form in forms.values()]
