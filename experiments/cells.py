"""What the experiments' tables have in common: cells, settings in words, and where the numbers come from."""

import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from eqpool.files import read_json
from experiments.runner import Setting

TASK_MODELS_KEPT = "each at its own epoch"  # a fact of an ISTN's tables: they were kept at the ISTN's own once


def mean_and_deviation(values: Sequence[float | None], digits: int) -> str:
    """Mean (standard deviation) of what is defined; one value, and counts (0 digits), stand without deviation."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return ""
    spread = f" ({statistics.stdev(numbers):.{digits}f})" if len(numbers) > 1 and digits else ""
    return f"{statistics.mean(numbers):.{digits}f}{spread}"


def with_interval(metrics: Mapping[str, Any], key: str, digits: int) -> str:
    """ "81.3 [70.0, 90.0]"; without brackets where there is no interval, "" where there is no value."""
    if metrics.get(key) is None:
        return ""
    interval = metrics.get(f"{key}_interval")
    between = f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""
    return f"{metrics[key]:.{digits}f}{between}"


def in_words(setting: Setting) -> str:
    """ "stage_two.mmd_weight 5.0, seed 1"; "default" where it is empty."""
    return ", ".join(f"{key} {value}" for key, value in setting.items()) or "default"


def beside_the_config(changed: Sequence[str]) -> list[str]:
    """A line of a table's head that names what --set gave; none where it gave nothing."""
    return [f"Beside the config: {', '.join(changed)}."] if changed else []


def provenance(results: Mapping[str, Any]) -> str:
    """ "on <date>, <device>, <package version, ...>", of the run that `results` are of."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return f"on {results.get('date', 'an unknown day')}, {results['device']}, {versions}"


def joined(
    path: pathlib.Path, facts: Mapping[str, Any], rows: Sequence[dict[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """The new rows of a table, and those of an earlier one of the same `facts` that were not run again, in no order.

    Rows of other facts cannot stand in one table with them: stderr says that they go, and which fact differs.

    Args:
      path: of the table's JSON, which may not be there yet.
      facts: what all rows of one table share, as the JSON holds it.
      rows: the new ones.
      names: the keys by which a row is the same as another.
    """
    earlier = read_json(path) if path.is_file() else {}
    other = [key for key, value in facts.items() if earlier.get(key) != value]
    kept = earlier.get("rows", [])
    if kept and other:
        print(f"eqpool: {path}: its {len(kept)} rows are of another {', '.join(other)} and go", file=sys.stderr)
        kept = []
    return list({repr([_listed(row[name]) for name in names]): row for row in [*kept, *rows]}.values())


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # as it comes back from JSON


def settings_to_try(
    method: str, of_ours: tuple[str, Sequence[float]], of_others: tuple[str, Sequence[float]]
) -> list[Setting]:
    """The settings of a method to choose from, as dotted config keys; naive has but one."""
    if method == "naive":
        return [{}]
    key, weights = of_ours if method == "ours" else of_others
    return [{key: weight} for weight in weights]
