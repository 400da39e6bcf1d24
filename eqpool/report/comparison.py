"""A table that compares several runs on the same data."""

import pathlib
from collections.abc import Sequence
from typing import Any

from eqpool.errors import InputError
from eqpool.report.formatting import format_metric
from eqpool.storage.files import read_json
from eqpool.storage.run_folder import RunFolder

# (key in results.json, heading). A column is shown if at least one run has its key.
_COLUMNS = (
    ("strongest_probe", "site from Phi"),
    ("strongest_probe_covariate_free", "site from tau^-1 Phi"),
    ("mmd_p_value", "MMD, p"),
    ("accuracy", "accuracy %"),
    ("mae", "MAE"),
    ("before_accuracy", "before, %"),
    ("finetuned_accuracy", "fine-tuned, %"),
    ("before_mae", "before, MAE"),
    ("finetuned_mae", "fine-tuned, MAE"),
    ("kept_age_r_squared", "age from Phi, R^2"),
)


def compare_runs(folder: pathlib.Path, others: Sequence[pathlib.Path]) -> dict[str, Any] | None:
    """Returns the `headings` and `rows` of the comparison table, or None if there are no other runs.

    Each row has a `name`, a `folder` and `cells`.

    Raises:
      InputError: a folder has no results.json, or a run used different rows, inputs or another split, so that its
        numbers are not comparable.
    """
    if not others:
        return None
    runs = [(path, _read(path)) for path in (folder, *others)]
    own = runs[0][1]
    for path, results in runs[1:]:
        if results.get("data_hash") != own.get("data_hash"):
            raise InputError(
                f"--compare={path}: made from other data or another split than {folder} (data hash "
                f"{_short(results)}, expected {_short(own)})"
            )
    shown = [(key, label) for key, label in _COLUMNS if any(key in run["metrics"] for _, run in runs)]
    rows = [
        {"name": f"{results['method']}, seed {results['seed']}", "folder": path.name, "cells": _cells(results, shown)}
        for path, results in runs
    ]
    return {"headings": [label for _, label in shown], "rows": rows}


def _cells(results: dict[str, Any], shown: list[tuple[str, str]]) -> list[str]:
    metrics = results["metrics"]
    return [format_metric(metrics, key) if key in metrics else "-" for key, _ in shown]


def _read(folder: pathlib.Path) -> dict[str, Any]:
    path = RunFolder(folder).results_file
    if not path.is_file():
        raise InputError(f"--compare={folder}: results.json not found; expected the folder of a finished run")
    return read_json(path)


def _short(results: dict[str, Any]) -> str:
    return results.get("data_hash", "unknown")[:12]
