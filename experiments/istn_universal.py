"""Harmonises scans of a scanner that a universal ISTN never saw, and compares it with what needs scans of it.

A cohort of six simulated scanners is made, with one distribution of ages. One scanner is left out of training. The
universal ISTN (`istn.direction=universal`) learns from the others, and gives the scans of the one left out the look of
the reference without seeing their site. Its error to the same brain as the reference scanner sees it is compared
with that of the scans as they are, of ComBat that saw ten of them, and of an ISTN of two sites that was trained on half
of them. All are scored on the other half.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eqpool.data.cohort import Cohort
from eqpool.data.load import load_cohort
from eqpool.data.site_effects.combat import Combat
from eqpool.data.sources.simulated import CohortSpecification, Site, build_simulated_cohort
from eqpool.data.sources.simulated_scanner import Scanner
from eqpool.data.sources.simulated_view import ScannerView
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.read import prepare_image
from eqpool.methods.derivatives import to_z_scores
from eqpool.methods.istn import Istn
from eqpool.methods.istn_volumes import make_harmonise
from eqpool.storage.files import write_table
from eqpool.storage.progress import track
from eqpool.storage.run_folder import RunFolder
from experiments.flags import add_set, count, parse_settings, some_of
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.runner import Setting, Task, config_of, run_all
from experiments.tables import Measured, table

REFERENCE, CONTROLS, SEED = "C", 10, 0
# (gamma, grey_shift, bias, blur in mm, noise, gain) of scanners A to F; those of the reference lie in the middle.
_SETTINGS = {
    "A": (0.85, -0.03, 0.05, 1.6, 0.022, 900.0),
    "B": (0.92, 0.02, 0.06, 1.2, 0.032, 1500.0),
    "C": (1.00, 0.00, 0.05, 1.3, 0.026, 700.0),
    "D": (1.07, -0.02, 0.06, 1.5, 0.028, 420.0),
    "E": (1.15, 0.03, 0.05, 1.0, 0.030, 300.0),
    "F": (0.88, 0.03, 0.07, 1.1, 0.024, 1100.0),
}
_VERSIONS = {
    "raw": "as scanned",
    "combat": f"ComBat from {CONTROLS} scans of it",
    "universal": "universal ISTN, which never saw it",
    "one_way": "ISTN of two sites, trained on scans of it",
}


class Split(NamedTuple):
    """Rows of the scanner that is left out: those that rivals may learn from, and those that are scored."""

    learnt: np.ndarray
    scored: np.ndarray


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    others = [name for name in _SETTINGS if name != REFERENCE]
    parser.add_argument("--left_out", type=some_of(others), default="E,F", help="scanners left out, each in turn")
    parser.add_argument("--people", type=count, default=60, help="people of each scanner")
    add_set(parser)


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Trains both ISTNs for each scanner that is left out, or resumes, and scores its scans."""
    folder, cache = options.runs / experiment.name / str(options.people), options.runs / "cache"
    specification, grid = make_specification(options.people), named_grid("32x32x32")
    participants = build_simulated_cohort(cache, specification, grid, seed=SEED) / "participants.tsv"
    changed = parse_settings(options.set)
    content: dict[str, Any] = {"people": options.people, "set": options.set, "left_out": {}}
    runs = []
    for name in options.left_out:
        tables = write_tables(participants, name)
        settings = {
            direction: _setting(cache, tables[direction], direction) | changed for direction in ("universal", "one_way")
        }
        tasks = [Task("brain_sex", "", setting, folder / f"{name}_{key}") for key, setting in settings.items()]
        results = run_all(tasks, 1, f"{experiment.name} without {name}")
        everyone = dataclasses.replace(config_of(tasks[0]).data, participants=str(participants))
        cohort = load_cohort(everyone, cache)
        content["left_out"][name] = score(cohort, specification, name, dict(zip(settings, tasks, strict=True)))
        content["left_out"][name]["wall_seconds"] = {
            key: result["wall_seconds"] for key, result in zip(settings, results, strict=True)
        }
        runs += results
    return Measured(content, runs)


def make_specification(people: int) -> CohortSpecification:
    """Returns the cohort of six scanners, with as many women as men and one distribution of ages."""
    sites = [
        Site(name, (("Control", people),), 59.5, 8.0, 0.5, Scanner(gamma, grey, bias, seed, blur, noise, gain))
        for seed, (name, (gamma, grey, bias, blur, noise, gain)) in enumerate(_SETTINGS.items(), start=21)
    ]
    return CohortSpecification("six_scanners", (30.0, 87.0), tuple(sites), sex_effect=1.0)


def split_of(names: np.ndarray, site: np.ndarray, left_out: str) -> Split:
    """Returns the first and the second half of a scanner's rows, in the order of their names."""
    rows = np.flatnonzero(site == left_out)
    rows = rows[np.argsort(names[rows], kind="stable")]
    return Split(rows[: len(rows) // 2], rows[len(rows) // 2 :])


def write_tables(participants: pathlib.Path, left_out: str) -> dict[str, pathlib.Path]:
    """Writes the tables of both ISTNs beside the cohort's: the other scanners, and the reference with half of this."""
    frame = pd.read_csv(participants, sep="\t")
    site = frame["site"].to_numpy()
    learnt = np.zeros(len(frame), bool)
    learnt[split_of(frame["participant_id"].to_numpy(), site, left_out).learnt] = True
    chosen = {"universal": site != left_out, "one_way": (site == REFERENCE) | learnt}
    tables = {key: participants.with_name(f"{key}_without_{left_out}.tsv") for key in chosen}
    for key, rows in chosen.items():
        write_table(tables[key], frame[rows])
    return tables


def _setting(cache: pathlib.Path, participants: pathlib.Path, direction: str) -> Setting:
    return {
        "cache_dir": str(cache),
        "data.dataset": "participants",
        "data.participants": str(participants),
        "data.site_column": "site",
        "istn.direction": direction,
        "istn.reference": REFERENCE,
        "task.epochs": 5,  # the task models do not train the ISTN, and are not asked for here
        "output.harmonised": "none",
        "evaluate.scorecard": False,
    }


def score(cohort: Cohort, specification: CohortSpecification, left_out: str, models: dict[str, Task]) -> dict[str, Any]:
    """Returns the error to the reference's view of the scored scans, by version, and how many scans there are."""
    assert cohort.volumes is not None
    grid, rows = cohort.volumes.grid, split_of(cohort.participant_id, cohort.site_labels, left_out)
    view = ScannerView(specification, REFERENCE, grid, SEED)

    def voxels(volume: np.ndarray) -> np.ndarray:
        return to_z_scores(volume, squash=True)[grid.mask]

    def seen_by_reference(row: int) -> np.ndarray:
        path = pathlib.Path(cohort.volumes.image_path[row])  # type: ignore[union-attr]
        return voxels(prepare_image(view.of(path), path, grid, squash=True).volume)

    raw = np.stack([voxels(cohort.inputs[row]) for row in rows.scored])
    versions = {"raw": raw, "combat": _combat(cohort, rows, voxels, raw)}
    for key, task in models.items():
        model = Istn().load(RunFolder(task.folder), config_of(task))
        harmonise = make_harmonise(model.config, model.variables, len(model.facts.site_names))
        index = list(model.facts.site_names).index(left_out) if left_out in model.facts.site_names else 0
        made = track(rows.scored, f"Harmonising {left_out}", unit="volume")
        versions[key] = np.stack([voxels(harmonise(cohort.inputs[row], index).image) for row in made])
    truth = np.stack([seen_by_reference(row) for row in rows.scored])
    errors = {key: np.sqrt(np.mean((values - truth) ** 2, axis=1)) for key, values in versions.items()}
    return {"scans": len(rows.scored), "errors": {key: each.tolist() for key, each in errors.items()}}


def _combat(cohort: Cohort, rows: Split, voxels: Callable[[np.ndarray], np.ndarray], raw: np.ndarray) -> np.ndarray:
    """Returns the scored scans after ComBat, which learns from the reference's scans and a few of the scanner's."""
    learnt = np.concatenate([np.flatnonzero(cohort.site_labels == REFERENCE), rows.learnt[:CONTROLS]])
    values = np.stack([voxels(cohort.inputs[row]) for row in learnt]).astype(np.float64)
    combat = Combat.fit(values, cohort.site_labels[learnt], cohort.covariates[learnt], reference=REFERENCE)
    return combat.apply(raw, cohort.site_labels[rows.scored], cohort.covariates[rows.scored])


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table with a row for each version and a column for each scanner that was left out."""
    left_out = content["left_out"]
    rows = []
    for key, label in _VERSIONS.items():
        errors = {name: np.array(one["errors"][key]) for name, one in left_out.items()}
        nearer = [np.mean(errors[name] < np.array(one["errors"]["raw"])) for name, one in left_out.items()]
        cells = [f"{errors[name].mean():.3f} ({errors[name].std(ddof=1):.3f})" for name in left_out]
        rows.append([label, *cells, "" if key == "raw" else ", ".join(f"{100 * share:.0f}" for share in nearer)])
    scans = ", ".join(f"{one['scans']} of {name}" for name, one in left_out.items())
    return "\n".join(
        [
            f"SIMULATED data. {written_by(experiment.name, content)}",
            f"Root-mean-square error to the same brain as scanner {REFERENCE} sees it, in z-scores inside the mask:",
            f"mean (standard deviation) over scans. Scored scans: {scans}.",
            "",
            *table(["version", *(f"scanner {name} left out" for name in left_out), "scans nearer than raw, %"], rows),
        ]
    )
