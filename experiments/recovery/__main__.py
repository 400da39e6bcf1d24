"""`python -m experiments.recovery [--config=adni] [--folds=3]`: the simulated cohort measured against its own truth.

Calibration: how well a logistic probe tells the scanner from raw voxels, and what a naive encoder makes of diagnosis
and age. Recovery: how far volumes are from the scanner-free ones, and what of the true effect the t-map finds, before
and after pooling, on cross-fitted decodes. Trains a naive run and K + 1 of ours; resumes; writes table.md here.
"""

import datetime
import pathlib
import sys
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from eqpool.commandline import complain, make_parser
from eqpool.config import DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.pipeline import load_cohort
from eqpool.errors import InputError
from eqpool.evaluate.intervals import balanced_accuracy, bootstrap_interval
from eqpool.files import write_json, write_text
from eqpool.maps import make_maps
from experiments.cells import with_interval
from experiments.runner import Task, run_all

# What the issue of the simulated cohort asks of it: label, lowest and highest value.
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
    ("auc", "AUC of |t| for the truth"),
)


def scanner_from_voxels(cohort: Cohort, seed: int = 0) -> dict[str, Any]:
    """Balanced accuracy (percent) of a logistic probe of the site on z-scored voxels, 5-fold over subjects.

    The probe sees all principal components of its training rows: fewer rows than voxels lose nothing by that, and an
    L2-penalised logistic regression on them is the one on the voxels.
    """
    assert cohort.grid is not None
    rows = np.flatnonzero(cohort.site >= 0)
    voxels = np.stack([cohort.inputs[row][cohort.grid.mask] for row in rows])
    probe = make_pipeline(PCA(), LogisticRegression(C=1e-3, max_iter=2000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    told = cross_val_predict(probe, voxels, cohort.site[rows], groups=cohort.participant_id[rows], cv=folds)
    truth = cohort.site[rows]

    def score(chosen: np.ndarray) -> float:
        return 100 * balanced_accuracy(truth[chosen], told[chosen])

    interval = bootstrap_interval(score, len(rows), 500, seed)
    return {"scanner_from_voxels": score(np.arange(len(rows))), "scanner_from_voxels_interval": interval}


def main() -> None:
    """Trains or resumes, measures, and writes the table."""
    parser = make_parser("experiments.recovery", __doc__)
    parser.add_argument("--config", default="adni", choices=("adni", "adcp"), help="which simulated cohort")
    parser.add_argument("--folds", type=int, default=3, help="of the maps")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of each site that is simulated")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"), help="where work directories go")
    arguments = parser.parse_args()
    runs = arguments.runs / f"recovery_{arguments.config}"
    fixed = {"cache_dir": str(arguments.runs / "cache"), "data.simulated_fraction": arguments.fraction}
    tasks = [
        Task(arguments.config, "", fixed | {"method": method, "output.harmonised": "none"}, runs / method)
        for method in ("naive", "ours")
    ]
    try:
        naive, ours = run_all(tasks, 1, "recovery")
        maps = make_maps(runs / "ours", arguments.folds)
    except InputError as error:
        sys.exit(complain(error))
    data = DataConfig(dataset=arguments.config, simulated_fraction=arguments.fraction)
    measured = scanner_from_voxels(load_cohort(data, arguments.runs / "cache"))
    for name, key in (("naive_accuracy", "accuracy"), ("naive_age_mae", "kept_age_mae")):
        measured |= {name: naive["metrics"][key], f"{name}_interval": naive["metrics"].get(f"{key}_interval")}
    here = pathlib.Path(__file__).parent
    facts = {"date": datetime.date.today().isoformat(), "calibration": measured, "maps": maps, "ours": ours}
    write_json(here / f"table_{arguments.config}.json", facts)
    write_text(here / f"table_{arguments.config}.md", markdown(arguments.config, facts))


def markdown(name: str, facts: dict[str, Any]) -> str:
    """The tables: calibration against what is asked, and recovery before and after."""
    ours, maps, measured = facts["ours"], facts["maps"], facts["calibration"]
    versions = ", ".join(f"{package} {version}" for package, version in ours["versions"].items())
    rows = next(iter(maps["forms"].values()))["rows"]
    lines = [
        f"# The simulated {name.upper()} cohort against its own truth",
        "",
        f"SIMULATED data. Written by `python -m experiments.recovery --config={name}` on {facts['date']},",
        f"{ours['device']}, {versions}; seed {ours['seed']}.",
        "",
        "| calibration | measured | asked |",
        "|---|---|---|",
    ]
    for key, (label, low, high) in TARGETS.items():
        lines.append(f"| {label} | {with_interval(measured, key, 1)} | {low:g} to {high:g} |")
    lines += ["", f"{rows} volumes, each decoded by networks that never saw it ({maps['folds']} folds).", ""]
    lines.append("| measure | " + " | ".join(form.replace("_", ", ") for form in maps["forms"]) + " |")
    lines.append("|---" * (len(maps["forms"]) + 1) + "|")
    for key, label in ROWS:
        lines.append(f"| {label} | " + " | ".join(f"{form[key]:.4g}" for form in maps["forms"].values()) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
