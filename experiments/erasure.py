"""Measures what the closed-form erasure of the site before b changes, over splits of a cohort.

Both settings of `stage_two.erase_site` share stage one, so that they differ in stage two alone. Each is run on inputs
as they are and on inputs after the calibration of sites, which leaves little of the site to erase.
"""

import argparse
import pathlib
from typing import Any

from experiments.flags import add_folder, count, parse_settings, some_of
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.runner import Task, run_all
from experiments.tables import Measured, beside_the_config, mean_and_deviation, table

SETTINGS, CALIBRATIONS = ("none", "conditional"), ("none", "by_method")
# Metric -> its name, and digits.
COLUMNS = {
    "strongest_probe_before": ("site from l", 3),
    "strongest_probe_covariate_free": ("site from tau^-1 Phi", 3),
    "strongest_probe": ("site from Phi", 3),
    "site_floor": ("site floor", 3),
    "mmd": ("M unbiased", 2),
    "mmd_covariate_free": ("M of tau^-1 Phi", 2),
    "equivariance_error": ("equivariance error", 2),
    "kept_age_mae": ("age MAE", 2),
    "kept_age_r_squared": ("R^2 of age", 3),
    "balanced_accuracy": ("target, balanced accuracy %", 1),
    "change_scale": ("scale of the change", 2),
}


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    parser.add_argument("--config", default="adni", help="name of a config in configs/")
    add_folder(parser, "--raw_dir", "config.data.raw_dir")
    parser.add_argument("--splits", type=count, default=3, help="number of random splits")
    parser.add_argument(
        "--calibrations", type=some_of(CALIBRATIONS), default=list(CALIBRATIONS), help="values of data.site_calibration"
    )
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the config, for every run")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Trains both settings on every split, or resumes them."""
    runs = options.runs / f"{experiment.name}_{options.config}"
    fixed: dict[str, Any] = {"cache_dir": str(options.runs / "cache"), "data.raw_dir": str(options.raw_dir or "")}
    fixed |= {"evaluate.scorecard": False, "evaluate.probe_permutations": 0, "output.harmonised": "none"}
    fixed |= parse_settings(options.set)
    tasks = [_task(options, fixed, runs, split, each) for split in range(options.splits) for each in _settings(options)]
    results = run_all(tasks, 1, experiment.name)
    rows = [
        {key: task.setting[f"{group}.{key}"] for group, key in _NAMED}
        | {"metrics": {name: result["metrics"].get(name) for name in COLUMNS}}
        for task, result in zip(tasks, results, strict=True)
    ]
    content = {"config": options.config, "simulated": results[0]["simulated"], "set": options.set, "rows": rows}
    return Measured(content, results, f"_{options.config}")


_NAMED = (("data", "site_calibration"), ("data", "split_seed"), ("stage_two", "erase_site"))


def _settings(options: argparse.Namespace) -> list[tuple[str, str]]:
    return [(calibration, setting) for calibration in options.calibrations for setting in SETTINGS]


def _task(
    options: argparse.Namespace, fixed: dict[str, Any], runs: pathlib.Path, split: int, setting: tuple[str, str]
) -> Task:
    calibration, erase_site = setting
    own = {"data.split_seed": split, "data.site_calibration": calibration, "stage_two.erase_site": erase_site}
    return Task(options.config, "", fixed | own, runs / f"split{split}_{calibration}_{erase_site}")


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table, with a row for each setting and one for what the erasure changes within splits."""
    rows, splits = content["rows"], {row["split_seed"] for row in content["rows"]}
    shown = {name: both for name, both in COLUMNS.items() if any(row["metrics"][name] is not None for row in rows)}
    cells = []
    for calibration in dict.fromkeys(row["site_calibration"] for row in rows):
        of = {
            setting: [
                row["metrics"] for row in rows if (row["site_calibration"], row["erase_site"]) == (calibration, setting)
            ]
            for setting in SETTINGS
        }
        without, erased = (of[setting] for setting in SETTINGS)
        of["difference"] = [_difference(*pair, list(shown)) for pair in zip(without, erased, strict=True)]
        for setting, metrics in of.items():
            values = [[one[name] for one in metrics] for name in shown]
            texts = [mean_and_deviation(one, shown[name][1]) for name, one in zip(shown, values, strict=True)]
            cells.append([calibration, setting, *texts])
    data = "SIMULATED data, " if content["simulated"] else ""
    return "\n".join(
        [
            f"{data}configs/{content['config']}.py. {written_by(experiment.name, content)}",
            f"Mean (standard deviation) over {len(splits)} splits; differences are within splits.",
            *beside_the_config(content["set"]),
            "",
            *table(["data.site_calibration", "stage_two.erase_site", *(label for label, _ in shown.values())], cells),
        ]
    )


def _difference(before: dict[str, Any], after: dict[str, Any], names: list[str]) -> dict[str, float | None]:
    pairs = {name: (before[name], after[name]) for name in names}
    return {name: None if None in pair else pair[1] - pair[0] for name, pair in pairs.items()}
