"""Runs Table 1 of Robinson et al. 2020: digits of one domain harmonised to another, by every network of the table.

The tables show Acc_s and Acc_f on T for every row of the table and every target domain, in both directions. If several
learning rates or lambdas are given, the setting with the lowest validation score is kept. The score is the MMD between
S2T and T, which needs no label of T. Without --full the experiment uses the small setting of configs/morpho_mnist.py
with one learning rate and one lambda, which a CPU can handle. With it, it uses the paper's protocol and a grid of both.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from eqpool.errors import InputError
from experiments.flags import add_folder, add_jobs, numbers, some_of
from experiments.istn_brain import SCORES, image_distance, stn_name
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.runner import Setting, Task, config_of, folder_name, run_all
from experiments.tables import TASK_MODELS_KEPT, Measured, joined, results_path, table, with_interval

# (appearance, shape, spacing, the paper's Acc_s / Acc_f for thick, slanted and thick slanted digits)
ROWS = (
    ("itn", "none", 8, ("79.0 / 83.3", "83.4 / 83.3", "82.4 / 84.6")),
    ("none", "affine", 8, ("52.4 / 68.9", "92.4 / 93.0", "54.8 / 64.8")),
    ("none", "bspline", 4, ("39.0 / 54.4", "92.1 / 93.1", "36.0 / 57.2")),
    ("none", "bspline", 8, ("49.2 / 61.5", "92.5 / 92.3", "37.0 / 61.8")),
    ("itn", "affine", 8, ("78.8 / 77.1", "86.7 / 88.4", "81.9 / 83.1")),
    ("itn", "bspline", 4, ("66.3 / 75.8", "92.7 / 91.0", "79.3 / 82.7")),
    ("itn", "bspline", 8, ("69.5 / 77.2", "91.8 / 93.4", "79.0 / 80.8")),
)
TARGETS = ("thick", "slanted", "thick_slanted")
_BEFORE = ("41.2", "45.7", "32.8")
_FULL_GRID = ((1e-4, 3e-4), (1.0, 10.0, 50.0))  # learning rates and lambdas, including the published 1e-4 and 50


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    add_folder(parser, "--raw_dir", "folder with MNIST's image files, instead of downloading them")
    parser.add_argument("--full", action="store_true", help="the paper's setting, for an accelerator")
    parser.add_argument("--targets", type=some_of(TARGETS), default=",".join(TARGETS), help="comma-separated")
    parser.add_argument("--one_way", action="store_true", help="from thin alone, not back")
    of_rows = "; ".join(f"{number} {' '.join(_names(number))}" for number in range(len(ROWS)))
    every_row = ",".join(map(str, range(len(ROWS))))
    rows = some_of(range(len(ROWS)))
    parser.add_argument("--rows", type=rows, default=every_row, help=f"comma-separated: {of_rows}; default: all")
    parser.add_argument("--learning_rates", type=numbers, help="comma-separated, to choose from")
    parser.add_argument("--lambdas", type=numbers, help="comma-separated, to choose from")
    add_jobs(parser)


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Runs the cells, or resumes them. Cells of an earlier table with the same facts stay in it.

    Raises:
      InputError: every setting of every cell diverged, and there is no earlier table.
    """
    ways = [("thin", target) for target in options.targets]
    ways += [] if options.one_way else [(target, source) for source, target in ways]
    cells = list(itertools.product(ways, map(int, options.rows)))
    own = config_of(Task("morpho_mnist", "paper" if options.full else "", {}, options.runs)).istn
    rates, weights = _FULL_GRID if options.full else ((own.learning_rate,), (own.image_weight,))
    grid = list(itertools.product(options.learning_rates or rates, options.lambdas or weights))
    tasks = [_task(options, way, row, *setting) for way, row in cells for setting in grid]
    results = run_all(tasks, options.jobs, experiment.name, keep_diverged=True)
    rows = []
    for index, (way, row) in enumerate(cells):
        chosen = choose(grid, results[index * len(grid) : (index + 1) * len(grid)])
        if chosen is None:
            print(f"eqpool: {' to '.join(way)}, {' '.join(_names(row))}: every setting diverged", file=sys.stderr)
        else:
            rows.append({"way": way, "row": row} | chosen)
    variant = f"_{'full' if options.full else 'small'}"
    facts = {"task_weight": own.task_weight, "task_models": TASK_MODELS_KEPT}
    path = results_path(options.output, experiment, variant)
    rows = sorted(joined(path, facts, rows, ["way", "row"]), key=_place)
    if not rows:
        raise InputError("no setting of any cell came to an end: there is no table")
    return Measured(facts | {"rows": rows}, [row["results"] for row in rows], variant)


def _task(options: argparse.Namespace, way: tuple[str, str], row: int, rate: float, weight: float) -> Task:
    appearance, shape, spacing, _ = ROWS[row]
    tried = {"istn.learning_rate": rate, "istn.image_weight": weight}
    fixed: Setting = {"data.source_domain": way[0], "data.target_domain": way[1]}
    fixed |= {
        "data.raw_dir": str(options.raw_dir or ""),
        "istn.appearance": appearance,
        "istn.shape": shape,
        "istn.spacing": spacing,
    }
    fixed |= {"cache_dir": str(options.runs / "cache"), "evaluate.scorecard": False}  # the table shows none of it
    name, size = f"{appearance}-{shape}-{spacing}", "full" if options.full else "small"
    folder = options.runs / f"istn_table1_{size}" / "-to-".join(way) / name / folder_name(tried)
    return Task("morpho_mnist", "paper" if options.full else "", fixed | tried, folder)


def choose(grid: Sequence[tuple[float, float]], tried: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the setting with the lowest validation score, its results, and the number of settings that diverged.

    Returns None if all of them diverged, so that the table lacks the cell.
    """
    ended = [(setting, results) for setting, results in zip(grid, tried, strict=True) if "diverged" not in results]
    if not ended:
        return None
    setting, results = min(ended, key=lambda one: one[1]["metrics"]["selection_score"])
    return {"setting": setting, "results": results, "diverged": len(grid) - len(ended)}


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """Returns the sort key of a row. Rows from thin come first, ordered by target and network."""
    source, target = row["way"]
    return source != "thin", TARGETS.index(target if source == "thin" else source), row["row"]


def _names(row: int) -> tuple[str, str]:
    """Returns a row's ITN and STN in words."""
    appearance, shape, spacing, _ = ROWS[row]
    return appearance, stn_name(shape, spacing)


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the tables as text, one for each direction."""
    return "\n".join(_lines(experiment, content))


def _lines(experiment: Experiment, content: dict[str, Any]) -> Iterator[str]:
    rows, weight = content["rows"], content["task_weight"]
    first = rows[0]["results"]
    yield written_by(experiment.name, content, first)
    yield f"Seed {first['seed']}. Accuracy on held-out digits, %, with its 95% interval; the paper's cells are before,"
    yield "Acc_s / Acc_f as printed, from thin alone. 100 MMD² is the distance of the domains' images, before to after,"
    yield "with the p value after."
    if weight:
        yield f"Not the paper's objective: the fine-tuned classifier's loss on S2T, times {weight:g}, teaches the ISTN"
        yield "too (`istn.task_weight`), which the paper names as future work; `--full` is without it."
    header = ["ITN", "STN", "source", "before", "Acc_s", "Acc_f", "100 MMD²"]
    header += ["learning rate, lambda", "seconds", "paper"]
    for way in dict.fromkeys(tuple(row["way"]) for row in rows):
        yield from ("", f"{way[0]} to {way[1]}:", "")
        yield from table(header, [_cells(way, row) for row in rows if tuple(row["way"]) == way])


def _cells(way: tuple[str, ...], row: dict[str, Any]) -> list[str]:
    published = ROWS[row["row"]][-1]
    metrics = row["results"]["metrics"]
    scores = [with_interval(metrics, f"{name}_accuracy", 1) for name in SCORES]
    column = TARGETS.index(way[1]) if way[0] == "thin" else None
    paper = "" if column is None else f"{_BEFORE[column]}, {published[column]}"
    rate, weight = row["setting"]
    chosen = f"{rate:g}, {weight:g}" + (f"; {row['diverged']} settings diverged" if row.get("diverged") else "")
    seconds = f"{row['results']['wall_seconds']:.0f}"
    return [*_names(row["row"]), *scores, image_distance(metrics), chosen, seconds, paper]
