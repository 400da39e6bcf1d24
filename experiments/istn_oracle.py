"""Measures the accuracy that a perfect harmonisation of the simulated brains could recover.

The data are the SIMULATED cohorts of `experiments istn_brain`, but the source's brains are scanned by the reference's
scanner. The source's task model is trained on them and tested on the reference's held-out brains, as after a perfect
harmonisation. The gap between an ISTN and this result is due to the ISTN. The remaining error is due to the small
number of brains.
"""

import argparse
import dataclasses
import pathlib
from typing import Any

from eqpool.data.sources.simulated import SPECIFICATIONS, build_simulated_cohort
from eqpool.data.volumes.grids import named_grid
from experiments.flags import add_jobs, some_of
from experiments.istn_brain import DIRECTIONS, score_of
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.runner import Task, config_of, run_all
from experiments.tables import Measured, table, with_interval

_COLUMNS = ("source", "before")  # accuracy of the task model on its own site, and on the reference


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    configs = ",".join(DIRECTIONS)
    parser.add_argument("--configs", type=some_of(DIRECTIONS), default=configs, help="comma-separated")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the simulated subjects")
    add_jobs(parser, jobs=1)


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Simulates the cohorts and trains the task models, or resumes this."""
    tasks = [_task(name, options.fraction, options.runs) for name in options.configs]
    results = run_all(tasks, options.jobs, experiment.name)
    rows = [{"config": name, "results": one} for name, one in zip(options.configs, results, strict=True)]
    return Measured({"fraction": options.fraction, "rows": rows}, results)


def _task(name: str, fraction: float, runs: pathlib.Path) -> Task:
    grid = config_of(Task(name, "", {}, runs)).data.grid
    specification = SPECIFICATIONS[name]
    source, reference = specification.sites
    alike = dataclasses.replace(
        specification, sites=(dataclasses.replace(source, scanner=reference.scanner), reference)
    )
    cohort = build_simulated_cohort(runs / "cache" / "oracle", alike, named_grid(grid), fraction=fraction)
    setting = {
        "data.participants": str(cohort / "participants.tsv"),
        "istn.reference": reference.name,
        "istn.shape": "none",
        "istn.epochs": 0,  # the images are alike already
        "output.harmonised": "none",
        "cache_dir": str(runs / "cache"),
    }
    return Task(name, "", setting, runs / f"istn_oracle_{fraction:g}" / name)


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table as text, with 95% intervals."""
    rows = []
    for row in content["rows"]:
        metrics = row["results"]["metrics"]
        key, digits = score_of(metrics)
        rows.append([row["config"], *(with_interval(metrics, f"{which}_{key}", digits) for which in _COLUMNS)])
    first = content["rows"][0]["results"]
    lines = [
        f"SIMULATED volumes. {written_by(experiment.name, content, first)}",
        f"Seed {first['seed']}. On held-out brains with 95% intervals: accuracy in % (sex), MAE in years (age).",
        "",
        *table(["config", "single site", "on the reference"], rows),
    ]
    return "\n".join(lines)
