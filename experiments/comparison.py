"""Compares methods on one cohort over several seeds or splits, as in Table 2 of Lokhande et al. 2022.

Every run has a work directory of its own. The setting of each method is chosen by cross-validation inside the training
rows (`experiments.selection`): the best balanced accuracy of the target among the settings from which the strongest
probe reads the site hardly better than from covariates and target alone, or than by chance. With volumes it is chosen
anew in each split, so that no choice has seen a test row. The seeds of a table share their rows and one choice. All
methods read the same inputs.
"""

import argparse
import hashlib
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from eqpool.data.tables.participants import read_participants
from eqpool.errors import InputError
from experiments.comparison_specs import METHODS, SPECS, Comparison
from experiments.flags import add_folder, add_jobs, add_set, count, count_of_folds, parse_settings, some_of
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.runner import Setting, Task, folder_name, run_all
from experiments.selection import MARGIN, Candidate, FoldJob, Scores, choose, score_all
from experiments.tables import Measured, beside_the_config, in_words, table, with_median

Cell = tuple[str, str]  # part of the table, method
RunTasks = Callable[[Sequence[Task], int, str], list[dict[str, Any]]]  # as `run_all`
ScoreJobs = Callable[[Sequence[FoldJob], int, str], list[list[Scores]]]  # as `score_all`
_SEEDS, SPLITS = (685, 648, 535), 5
_FOLDS, _FOLDS_OF_VOLUMES = 5, 2  # inside the training rows, to choose a setting


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
    folds = _FOLDS_OF_VOLUMES if spec.volumes else _FOLDS
    parser.add_argument(
        "--folds",
        type=count_of_folds,
        default=folds,
        help="folds of the training rows that choose a setting; 0: the middle one of each method, without a choice",
    )
    add_set(parser)
    add_jobs(parser, jobs=1 if spec.volumes else None)


def run(
    experiment: Experiment,
    options: argparse.Namespace,
    run_tasks: RunTasks = run_all,
    score_jobs: ScoreJobs = score_all,
) -> Measured:
    """Chooses the settings by the scores of `score_jobs`, and runs them on all seeds or splits by `run_tasks`.

    Raises:
      InputError: bad data, or a table with a column "split", which every run would share.
    """
    spec = SPECS[experiment.name]
    repeats: Sequence[int] = _SEEDS
    if spec.volumes:
        check_splits(options.participants, options.splits)
        repeats = range(options.splits)
    rows = compute(experiment, spec, options, repeats, run_tasks, score_jobs)
    variant = ""
    if spec.volumes:
        variant = ("_own" if options.participants else "") + ("_paper" if options.paper else "")
    chosen_by = {"folds": options.folds, "margin": MARGIN}
    content = {"set": options.set, "repeats": {_repeated(spec): list(repeats)}, "chosen_by": chosen_by, "rows": rows}
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
    inputs = "none" if options.paper else "auto"  # the same for all methods; the paper has no calibration
    own = {"output.harmonised": "none", "data.site_calibration": inputs}
    own |= {"data.participants": participants} if participants else {}
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
    score_jobs: ScoreJobs = score_all,
) -> list[dict[str, Any]]:
    """Returns a row per part and method, with the settings tried, those chosen and their results over the repeats."""
    parts = {part.name: part for part in _parts_of(experiment.name, spec, options)}
    cells = [(name, method) for name in parts for method in options.methods]
    variant = "paper" if spec.volumes and options.paper else ""

    def task(cell: Cell, repeat: int, setting: Setting) -> Task:
        part = parts[cell[0]]
        own = part.setting | {_repeated(spec): repeat} | spec.always(cell[1]) | setting
        return Task(spec.config, variant, own, part.folder / cell[1] / folder_name(setting) / str(repeat))

    # The rows of a table are divided once for all seeds, so that one choice serves them all.
    chosen_on = list(repeats) if spec.volumes else [repeats[0]]
    tried = _score_settings(spec, cells, chosen_on, task, options, score_jobs)
    chosen = {
        (cell, repeat): choose(tried[cell, repeat if spec.volumes else repeats[0]]).setting
        for cell in cells
        for repeat in repeats
    }
    tasks = [task(cell, repeat, setting) for (cell, repeat), setting in chosen.items()]
    results = dict(zip(chosen, run_tasks(tasks, options.jobs, experiment.name), strict=True))
    return [
        {
            "split": cell[0],
            "method": cell[1],
            "settings": [chosen[cell, repeat] for repeat in repeats],
            "tried": {str(repeat): [one.to_dict() for one in tried[cell, repeat]] for repeat in chosen_on},
            "results": [results[cell, repeat] for repeat in repeats],
        }
        for cell in cells
    ]


def _score_settings(
    spec: Comparison,
    cells: Sequence[Cell],
    chosen_on: Sequence[int],
    task: Callable[[Cell, int, Setting], Task],
    options: argparse.Namespace,
    score_jobs: ScoreJobs,
) -> dict[tuple[Cell, int], list[Candidate]]:
    """Scores the settings of every cell on every repeat with a choice of its own, unless there is one setting alone."""
    of_cell = {cell: spec.settings(cell[1]) for cell in cells}
    if not options.folds:
        of_cell = {cell: [settings[len(settings) // 2]] for cell, settings in of_cell.items()}
    jobs = {
        (cell, repeat, fold): FoldJob(tuple(task(cell, repeat, one) for one in settings), fold, options.folds)
        for cell, settings in of_cell.items()
        for repeat in chosen_on
        for fold in range(options.folds)
        if len(settings) > 1
    }
    scores = dict(zip(jobs, score_jobs(list(jobs.values()), options.jobs, spec.config), strict=True))
    return {
        (cell, repeat): [
            Candidate.of(
                setting,
                [scores[cell, repeat, fold][place] for fold in range(options.folds) if (cell, repeat, fold) in scores],
            )
            for place, setting in enumerate(settings)
        ]
        for cell, settings in of_cell.items()
        for repeat in chosen_on
    }


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
    chosen_by = content.get("chosen_by")
    if chosen_by and not chosen_by["folds"]:
        yield "Each method has the middle one of its settings. None was chosen by its scores."
    elif chosen_by:
        yield (
            f"Settings are chosen inside the training rows, by {chosen_by['folds']} folds: the best balanced accuracy "
            f"among those whose strongest probe exceeds max(site floor, chance) by at most {chosen_by['margin']}."
        )
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
    return [row["method"], *values, _chosen(row), spec.paper.get(row["method"], "")]


def _chosen(row: dict[str, Any]) -> str:
    """Returns the chosen settings with their numbers of repeats. Older files hold one setting of all repeats."""
    counts = Counter(in_words(setting) for setting in row.get("settings", [row.get("setting", {})]))
    return "; ".join(f"{text} ({times})" if len(counts) > 1 else text for text, times in counts.most_common())


def _values(row: dict[str, Any], key: str) -> list[float | None]:
    """Returns a metric or count of every run of a row. Older files hold lists of metrics instead of `results`."""
    if "results" not in row:
        return row["metrics"].get(key, [])
    return [run["metrics"].get(key, run.get("counts", {}).get(key)) for run in row["results"]]
