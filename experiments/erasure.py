"""Measures what the closed-form erasure of the site before b changes, over splits of a cohort.

Both settings of `stage_two.erase_site` share stage one, so that they differ in stage two alone.
"""

import argparse
from typing import Any

from experiments.flags import add_folder, count, parse_settings
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.runner import Task, run_all
from experiments.tables import Measured, beside_the_config, mean_and_deviation, table

SETTINGS = ("none", "conditional")
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
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the config, for every run")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Trains both settings on every split, or resumes them."""
    runs = options.runs / f"{experiment.name}_{options.config}"
    fixed = {"cache_dir": str(options.runs / "cache"), "data.raw_dir": str(options.raw_dir or "")}
    fixed |= {"evaluate.scorecard": False, "evaluate.probe_permutations": 0, "output.harmonised": "none"}
    fixed |= parse_settings(options.set)
    tasks = [
        Task(
            options.config, "", fixed | {"data.split_seed": split, "stage_two.erase_site": setting},
            runs / f"split{split}_{setting}",
        )
        for split in range(options.splits)
        for setting in SETTINGS
    ]  # fmt: skip
    results = run_all(tasks, 1, experiment.name)
    rows = [
        {"setting": task.setting["stage_two.erase_site"], "split": task.setting["data.split_seed"]}
        | {"metrics": {name: result["metrics"].get(name) for name in COLUMNS}}
        for task, result in zip(tasks, results, strict=True)
    ]
    content = {"config": options.config, "simulated": results[0]["simulated"], "set": options.set, "rows": rows}
    return Measured(content, results, f"_{options.config}")


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table, with a row for each setting and one for what the erasure changes within splits."""
    of_setting = {
        setting: [row["metrics"] for row in content["rows"] if row["setting"] == setting] for setting in SETTINGS
    }
    pairs = list(zip(*of_setting.values(), strict=True))
    shown = {
        name: label
        for name, label in COLUMNS.items()
        if any(row["metrics"].get(name) is not None for row in content["rows"])
    }
    rows = [
        [setting, *(mean_and_deviation([one[name] for one in metrics], digits) for name, (_, digits) in shown.items())]
        for setting, metrics in of_setting.items()
    ]
    changes = [mean_and_deviation(_differences(pairs, name), digits) for name, (_, digits) in shown.items()]
    return "\n".join(
        [
            f"{'SIMULATED data. ' if content['simulated'] else ''}configs/{content['config']}.py. "
            f"{written_by(experiment.name, content)}",
            f"Mean (standard deviation) over {len(pairs)} splits. The last row has the differences within splits.",
            *beside_the_config(content["set"]),
            "",
            *table(
                ["stage_two.erase_site", *(label for label, _ in shown.values())], [*rows, ["difference", *changes]]
            ),
        ]
    )


def _differences(pairs: list[tuple[dict[str, Any], dict[str, Any]]], name: str) -> list[float | None]:
    return [None if None in (one[name], other[name]) else other[name] - one[name] for one, other in pairs]
