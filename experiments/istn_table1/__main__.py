"""Paper B, Table 1: `python -m experiments.istn_table1 --raw_dir=MNIST [--full] [--targets=thick,slanted]`.

For every row of the table and every target domain, both ways: Acc_s and Acc_f on T. Where several learning rates or
lambdas are given, the setting with the lowest validation score is kept (the MMD between S2T and T, which needs no label
of T). Without --full the small setting of configs/morpho_mnist.py with its one rate and lambda, which a CPU can do;
with it, the paper's protocol and a grid of both.
"""

import datetime
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from eqpool.commandline import complain, make_parser
from eqpool.errors import InputError
from eqpool.files import write_json, write_text
from experiments.cells import TASK_MODELS_KEPT, joined, provenance, with_interval
from experiments.runner import Task, add_run_flags, config_of, folder_name, numbers, run_all, some_of

# Appearance, shape, spacing; and the paper's Acc_s / Acc_f for thick, slanted and thick slanted digits.
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
BEFORE = ("41.2", "45.7", "32.8")
FULL_GRID = ((1e-4, 3e-4), (1.0, 10.0, 50.0))  # learning rates, lambdas; 1e-4 and 50 are the published ones
SCORES = ("source", "before", "scratch", "finetuned")


def main() -> None:
    """Runs or resumes the table and writes it beside this file."""
    parser = make_parser("experiments.istn_table1", __doc__)
    parser.add_argument("--raw_dir", default="", help="folder with MNIST's image files, instead of downloading them")
    parser.add_argument("--full", action="store_true", help="the paper's setting, for an accelerator")
    parser.add_argument("--targets", type=some_of(TARGETS), default=",".join(TARGETS), help="comma-separated")
    parser.add_argument("--one_way", action="store_true", help="from thin alone, not back")
    of_rows = "; ".join(f"{number} {' '.join(_names(number))}" for number in range(len(ROWS)))
    every_row = ",".join(map(str, range(len(ROWS))))
    rows = some_of(range(len(ROWS)))
    parser.add_argument("--rows", type=rows, default=every_row, help=f"comma-separated: {of_rows}; default: all")
    parser.add_argument("--learning_rates", type=numbers, help="comma-separated, to choose from")
    parser.add_argument("--lambdas", type=numbers, help="comma-separated, to choose from")
    add_run_flags(parser)
    arguments = parser.parse_args()
    variant, size = ("paper", "full") if arguments.full else ("", "small")
    ways = [("thin", target) for target in arguments.targets]
    ways += [] if arguments.one_way else [(target, source) for source, target in ways]
    cells = list(itertools.product(ways, map(int, arguments.rows)))
    own = config_of(Task("morpho_mnist", variant, {}, arguments.runs)).istn
    rates, weights = FULL_GRID if arguments.full else ((own.learning_rate,), (own.image_weight,))
    grid = list(itertools.product(arguments.learning_rates or rates, arguments.lambdas or weights))

    def task(way: tuple[str, str], row: int, rate: float, weight: float) -> Task:
        appearance, shape, spacing, _ = ROWS[row]
        tried = {"istn.learning_rate": rate, "istn.image_weight": weight}
        fixed = {"data.source_domain": way[0], "data.target_domain": way[1], "data.raw_dir": arguments.raw_dir}
        fixed |= {"istn.appearance": appearance, "istn.shape": shape, "istn.spacing": spacing}
        fixed |= {"cache_dir": str(arguments.runs / "cache")}
        name = f"{appearance}-{shape}-{spacing}"
        folder = arguments.runs / f"istn_table1_{size}" / "-to-".join(way) / name / folder_name(tried)
        return Task("morpho_mnist", variant, fixed | tried, folder)

    tasks = [task(way, row, rate, weight) for way, row in cells for rate, weight in grid]
    try:
        results = run_all(tasks, arguments.jobs, "istn_table1", keep_diverged=True)
    except InputError as error:
        sys.exit(complain(error))
    table = []
    for index, (way, row) in enumerate(cells):
        chosen = choose(grid, results[index * len(grid) : (index + 1) * len(grid)])
        if chosen is None:
            print(f"eqpool: {' to '.join(way)}, {' '.join(_names(row))}: every setting diverged", file=sys.stderr)
        else:
            table.append({"way": way, "row": row} | chosen)
    path = pathlib.Path(__file__).parent / f"table_{size}.json"
    facts = {"task_weight": own.task_weight, "task_models": TASK_MODELS_KEPT}
    table = sorted(joined(path, facts, table, ["way", "row"]), key=_place)
    if not table:
        sys.exit(complain("no setting of any cell came to an end: there is no table"))
    write_json(path, {"date": datetime.date.today().isoformat()} | facts | {"rows": table})
    write_text(path.with_suffix(".md"), _markdown(table, own.task_weight))


def choose(grid: Sequence[tuple[float, float]], tried: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The setting whose images came nearest on validation digits, its results, and how many settings diverged.

    None where all of them did: then the table goes without.
    """
    ended = [(setting, results) for setting, results in zip(grid, tried, strict=True) if "diverged" not in results]
    if not ended:
        return None
    setting, results = min(ended, key=lambda one: one[1]["metrics"]["selection_score"])
    return {"setting": setting, "results": results, "diverged": len(grid) - len(ended)}


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """Where a row stands: from thin first, then by target and network."""
    source, target = row["way"]
    return source != "thin", TARGETS.index(target if source == "thin" else source), row["row"]


def _names(row: int) -> tuple[str, str]:
    """A row's ITN and STN in words."""
    appearance, shape, spacing, _ = ROWS[row]
    return appearance, f"B-spline ({spacing})" if shape == "bspline" else shape


def _markdown(table: list[dict[str, Any]], task_weight: float) -> str:
    first = table[0]["results"]
    lines = [
        "# Table 1, Morpho-MNIST",
        "",
        f"Written by `python -m experiments.istn_table1` {provenance(first)};",
        f"seed {first['seed']}. Accuracy on held-out digits, %, with its 95% interval; the paper's",
        "cells are before, Acc_s / Acc_f as printed, from thin alone.",
    ]
    if task_weight:
        lines += [
            f"Not the paper's objective: the fine-tuned classifier's loss on S2T, times {task_weight:g}, teaches the",
            "ISTN too (`istn.task_weight`), which the paper names as future work; `--full` is without it.",
        ]
    for way in dict.fromkeys(tuple(row["way"]) for row in table):
        lines += ["", f"## {way[0]} to {way[1]}", ""]
        lines.append("| ITN | STN | source | before | Acc_s | Acc_f | learning rate, lambda | seconds | paper |")
        lines.append("|---" * 9 + "|")
        for row in (row for row in table if tuple(row["way"]) == way):
            lines.append(_line(way, row))
    return "\n".join(lines) + "\n"


def _line(way: tuple[str, str], row: dict[str, Any]) -> str:
    published = ROWS[row["row"]][-1]
    metrics = row["results"]["metrics"]
    cells = [with_interval(metrics, f"{name}_accuracy", 1) for name in SCORES]
    column = TARGETS.index(way[1]) if way[0] == "thin" else None
    paper = "" if column is None else f"{BEFORE[column]}, {published[column]}"
    rate, weight = row["setting"]
    chosen = f"{rate:g}, {weight:g}" + (f"; {row['diverged']} settings diverged" if row.get("diverged") else "")
    seconds = f"{row['results']['wall_seconds']:.0f}"
    return "| " + " | ".join([*_names(row["row"]), *cells, chosen, seconds, paper]) + " |"


if __name__ == "__main__":
    main()
