"""Compares methods on one cohort over several seeds or splits, as in Table 2 of Lokhande et al. 2022.

Every run has a work directory of its own. The setting of each method is chosen on the validation rows of the first
seed or split by the paper's rule: the most invariant setting (by the strongest site probe) among those within five
points of the best validation accuracy. Test rows are never used to choose a setting. With volumes, a validation row of
the first split may be a test row of a later split. This holds for every method alike.
"""

import argparse
import hashlib
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from eqpool.data.tables.participants import read_participants
from eqpool.errors import InputError
from experiments.comparison_specs import METHODS, SPECS, Comparison
from experiments.flags import add_folder, add_jobs, add_set, count, parse_settings, some_of
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.runner import Setting, Task, folder_name, run_all
from experiments.tables import Measured, beside_the_config, in_words, table, with_median

RunTasks = Callable[[Sequence[Task], int, str], list[dict[str, Any]]]  # as `run_all`
_SEEDS, SPLITS = (685, 648, 535), 5
WINDOW = 5.0  # points of validation accuracy
_SELECTED_BY = ("selection_accuracy", "selection_probe")


class Part(NamedTuple):
    """A part of the table.

    Attributes:
      name: name of the part, or "" if there is only one.
      folder: folder of its runs.
      setting: config keys of its runs.
    """

    name: str
    folder: pathlib.Path
    setting: Setting


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the flags for tables, or those for volumes."""
    spec = SPECS[experiment.name]
    if spec.volumes:
        of_data = "participants.tsv of " + ("the cohort" if spec.own else "a real cohort; default: simulated")
        add_folder(parser, "--participants", of_data, required=bool(spec.own))
        parser.add_argument("--paper", action="store_true", help="the paper's protocol (:paper), for an accelerator")
        parser.add_argument("--splits", type=count, default=SPLITS, help="random splits of the cohort")
    else:
        add_folder(parser, "--raw_dir", "folder with UCI's raw files, instead of downloading them")
        add_folder(parser, "--published_dir", "folder with the published npz; without it, raw alone")
    parser.add_argument("--methods", type=some_of(METHODS), default=",".join(spec.methods), help="comma-separated")
    add_set(parser)
    add_jobs(parser, jobs=1 if spec.volumes else None)


def run(experiment: Experiment, options: argparse.Namespace, run_tasks: RunTasks = run_all) -> Measured:
    """Runs every setting on the first seed or split, and the chosen ones on the others, by `run_tasks`.

    Raises:
      InputError: bad data, or a table with a column "split", which every run would share.
    """
    spec = SPECS[experiment.name]
    repeats: Sequence[int] = _SEEDS
    if spec.volumes:
        check_splits(options.participants, options.splits)
        repeats = range(options.splits)
    rows = compute(experiment, spec, options, repeats, run_tasks)
    variant = ""
    if spec.volumes:
        variant = ("_own" if options.participants else "") + ("_paper" if options.paper else "")
    content = {"set": options.set, "repeats": {_repeated(spec): list(repeats)}, "rows": rows}
    return Measured(content, [result for row in rows for result in row["results"]], variant)


def _parts_of(name: str, spec: Comparison, options: argparse.Namespace) -> list[Part]:
    """Returns the parts of the table `name`. The folders depend on the data and the settings."""
    shared = {"cache_dir": str(options.runs / "cache")} | spec.fixed | parse_settings(options.set)
    if not spec.volumes:
        changed = _digest(sorted(options.set)) if options.set else ""
        folders = {"raw": options.raw_dir, "published": options.published_dir}
        return [
            Part(split, options.runs / name / f"{split}{changed}", shared | _of_split(split, folder))
            for split, folder in folders.items()
            if split == "raw" or folder
        ]
    participants = str(options.participants or "")
    changed = _digest((participants, sorted(options.set))) if participants or options.set else ""
    own = {"output.harmonised": "none"} | ({"data.participants": participants} if participants else {})
    return [Part("", options.runs / name / f"{'paper' if options.paper else 'small'}{changed}", own | shared)]


def _repeated(spec: Comparison) -> str:
    return "data.split_seed" if spec.volumes else "seed"


def _of_split(split: str, folder: pathlib.Path | None) -> Setting:
    return {"data.split": split, "data.raw_dir": str(folder or "")}


def _digest(changed: object) -> str:
    return f"_{hashlib.sha256(repr(changed).encode()).hexdigest()[:8]}"


def check_splits(participants: pathlib.Path | None, splits: int) -> None:
    """Raises `InputError` if several splits are asked for and the table has a column "split" of its own."""
    if participants and splits > 1 and "split" in read_participants(participants).frame:
        raise InputError(f"{participants}, column split: every run would have this one split; expected --splits=1")


def compute(
    experiment: Experiment,
    spec: Comparison,
    options: argparse.Namespace,
    repeats: Sequence[int],
    run_tasks: RunTasks = run_all,
) -> list[dict[str, Any]]:
    """Returns a row per part and method, with the settings tried, the chosen one and its results over the repeats."""
    parts = {part.name: part for part in _parts_of(experiment.name, spec, options)}
    cells = [(name, method) for name in parts for method in options.methods]
    variant = "paper" if spec.volumes and options.paper else ""

    def task(cell: tuple[str, str], repeat: int, setting: Setting) -> Task:
        part, method = parts[cell[0]], cell[1]
        own = part.setting | {"method": method, _repeated(spec): repeat} | setting
        return Task(spec.config, variant, own, part.folder / method / folder_name(setting) / str(repeat))

    tried = [(cell, setting) for cell in cells for setting in spec.settings(cell[1])]
    first = run_tasks([task(cell, repeats[0], setting) for cell, setting in tried], options.jobs, experiment.name)
    of_cell: dict[tuple[str, str], list[tuple[Setting, dict[str, Any]]]] = {cell: [] for cell in cells}
    for (cell, setting), results in zip(tried, first, strict=True):
        of_cell[cell].append((setting, results))
    chosen = {cell: select(settings) for cell, settings in of_cell.items()}
    rest = [(cell, repeat) for cell in cells for repeat in repeats[1:]]
    others = run_tasks([task(cell, repeat, chosen[cell][0]) for cell, repeat in rest], options.jobs, experiment.name)
    return [
        {
            "split": cell[0],
            "method": cell[1],
            "setting": chosen[cell][0],
            "tried": [_tried(*one) for one in of_cell[cell]],
            "results": [chosen[cell][1], *(r for (of, _), r in zip(rest, others, strict=True) if of == cell)],
        }
        for cell in cells
    ]


def _tried(setting: Setting, results: dict[str, Any]) -> dict[str, Any]:
    return {"setting": setting} | {key: results["metrics"].get(key) for key in _SELECTED_BY}


def select(tried: list[tuple[Setting, dict[str, Any]]]) -> tuple[Setting, dict[str, Any]]:
    """Returns the most invariant setting among those within five points of the best validation accuracy.

    If all validation rows come from one site, invariance is not measured, and the first of these settings is chosen.

    Raises:
      InputError: the target is a number, so there is no accuracy.
    """
    if any("selection_accuracy" not in results["metrics"] for _, results in tried):
        raise InputError("config.data.target: a number, expected classes: settings are chosen by their accuracy")
    best = max(results["metrics"]["selection_accuracy"] for _, results in tried)
    within = [one for one in tried if one[1]["metrics"]["selection_accuracy"] >= best - WINDOW]

    def probe_of(results: dict[str, Any]) -> float:
        probe = results["metrics"].get("selection_probe")
        return math.inf if probe is None else probe

    return min(within, key=lambda one: probe_of(one[1]))


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table as text: mean (standard deviation) [median] over the seeds or splits."""
    return "\n".join(_lines(experiment, SPECS[experiment.name], content))


def _lines(experiment: Experiment, spec: Comparison, content: dict[str, Any]) -> Iterator[str]:
    rows = content["rows"]
    first = rows[0]["results"][0] if "results" in rows[0] else rows[0]
    simulated = first.get("simulated", False)
    kind = spec.own or ("SIMULATED data" if simulated else "Real data")
    yield f"{kind}. {written_by(experiment.name, content, first)}"
    number = len(_values(rows[0], spec.columns[0].key))
    yield f"Mean (standard deviation) [median] over {number} {'splits' if spec.volumes else 'seeds'}."
    if any(spec.paper.values()):
        yield "The paper's cells are as printed, on its own data: delta_eq, Adv, M, ACC where nothing else is said."
    yield from beside_the_config(content.get("set", []))
    header = ["method", *(column.label for column in spec.columns), "setting", "paper"]
    for split in dict.fromkeys(row.get("split", "") for row in rows):
        yield ""
        if split:
            yield from (f"Split: {split}.", "")
        of_split = [row for row in rows if row.get("split", "") == split]
        yield from table(header, [_cells(spec, row) for row in of_split])


def _cells(spec: Comparison, row: dict[str, Any]) -> list[str]:
    values = [with_median(_values(row, key), digits) for _, key, digits in spec.columns]
    return [row["method"], *values, in_words(row["setting"]), spec.paper.get(row["method"], "")]


def _values(row: dict[str, Any], key: str) -> list[float | None]:
    """Returns a metric or count of every run of a row. Older files hold lists of metrics instead of `results`."""
    if "results" not in row:
        return row["metrics"].get(key, [])
    return [run["metrics"].get(key, run.get("counts", {}).get(key)) for run in row["results"]]
