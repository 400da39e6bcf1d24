"""Paper B, Tables 2 and 3: `python -m experiments.istn_brain [--participants=rescanned/participants.tsv] [--full]`.

Sex classification (one way and both ways) and age regression (one way) between two sites, either one as the source:
every row of the tables, on the SIMULATED cohorts of configs/brain_sex.py and configs/brain_age.py, or on a table of
volumes of one's own, such as real ones with a known second scanner (`python -m eqpool.data.rescanned`). Without --full
at 32^3 voxels, which a CPU can do; with it the paper's 64^3. Rows that are run apart join one table.
"""

import argparse
import datetime
import hashlib
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from eqpool.commandline import complain, make_parser
from eqpool.data.participants import parse_classes, read_participants
from eqpool.errors import InputError
from eqpool.files import write_json, write_text
from experiments.cells import TASK_MODELS_KEPT, beside_the_config, joined, provenance, with_interval
from experiments.runner import Setting, Task, add_run_flags, config_of, parse_settings, run_all, some_of

# Appearance, shape, spacing at 64^3. At 32^3 half the spacing is as many control points.
ROWS = (("itn", "none", 8), ("itn", "affine", 8), ("itn", "bspline", 8), ("itn", "bspline", 16))
DIRECTIONS = {"brain_sex": ("one_way", "two_way"), "brain_age": ("one_way",)}
SITES = ("UKBB", "CamCAN")  # of the simulated cohorts, in the order of the paper's columns
SCORES = ("source", "before", "scratch", "finetuned")
# (config, direction, index of the source) -> the paper's cells for no ITN and then for ROWS, as printed.
PAPER = {
    ("brain_sex", "one_way", 0): ("54.8", "79.1 / 72.2", "80.9 / 75.7", "78.3 / 76.5", "80.0 / 78.3"),
    ("brain_sex", "two_way", 0): ("54.8", "80.0 / 80.8", "70.4 / 82.4", "79.1 / 78.7", "73.0 / 67.8"),
    ("brain_sex", "one_way", 1): ("64.3", "86.2 / 78.2", "79.9 / 79.1", "80.3 / 84.5", "85.4 / 84.1"),
    ("brain_sex", "two_way", 1): ("64.3", "80.8 / 79.9", "82.4 / 72.0", "78.7 / 80.8", "67.8 / 68.6"),
    ("brain_age", "one_way", 0): ("5.13", "4.71", "4.58", "", "5.06"),
    ("brain_age", "one_way", 1): ("4.61", "", "", "", ""),
}


def main() -> None:
    """Runs or resumes the tables and writes them beside this file."""
    parser = make_parser("experiments.istn_brain", __doc__)
    parser.add_argument("--participants", default="", help="own table with site, age and sex; default: simulated")
    configs, directions, rows = some_of(DIRECTIONS), some_of(DIRECTIONS["brain_sex"]), some_of(range(len(ROWS)))
    parser.add_argument("--configs", type=configs, default="brain_sex,brain_age", help="comma-separated")
    parser.add_argument("--directions", type=directions, default="one_way,two_way", help="comma-separated")
    parser.add_argument("--sources", default="", help="names of sites to start from, comma-separated; default: both")
    parser.add_argument("--rows", type=rows, default="0,1,2,3", help="0 ITN alone, 1 affine, 2 and 3 B-spline")
    parser.add_argument("--full", action="store_true", help="64^3 and the paper's epochs, for an accelerator")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the simulated subjects")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a config key for every run")
    add_run_flags(parser)
    arguments = parser.parse_args()
    try:
        sites = _sites(arguments.participants)
        sources = _sources(arguments.sources, sites)
        cells = [
            (config, direction, source, row)
            for config in arguments.configs
            for direction in DIRECTIONS[config]
            if direction in arguments.directions
            for source, row in itertools.product(sources, map(int, arguments.rows))
        ]
        if not cells:
            raise InputError("--directions=two_way: brain_age goes one_way")
        shared = parse_settings(arguments.set)
        tasks = [_task(arguments, sites, shared, *cell) for cell in cells]
        results = run_all(tasks, arguments.jobs, "istn_brain")
    except InputError as error:
        sys.exit(complain(error))
    table = [{"cell": cell, "results": result} for cell, result in zip(cells, results, strict=True)]
    name = f"table_{'own' if arguments.participants else 'simulated'}_{'full' if arguments.full else 'small'}"
    path = pathlib.Path(__file__).parent / name
    facts = {"sites": list(sites), "set": arguments.set, "fraction": arguments.fraction}
    facts |= {"balance": config_of(tasks[0]).data.balance, "task_models": TASK_MODELS_KEPT}
    if arguments.participants:
        facts["participants"] = hashlib.sha256(pathlib.Path(arguments.participants).read_bytes()).hexdigest()[:16]
    table = sorted(joined(path.with_suffix(".json"), facts, table, ["cell"]), key=_place)
    write_json(path.with_suffix(".json"), {"date": datetime.date.today().isoformat()} | facts | {"rows": table})
    text = markdown(table, sites, bool(arguments.participants), arguments.set, arguments.full)
    write_text(path.with_suffix(".md"), text)


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    config, *rest = row["cell"]
    return list(DIRECTIONS).index(config), *rest


def _sites(participants: str) -> tuple[str, str]:
    if not participants:
        return SITES
    names = parse_classes(read_participants(pathlib.Path(participants)).require("site", "site"))[1]
    if len(names) != 2:
        raise InputError(f"{participants}, column site: {len(names)} sites, expected 2")
    return names[0], names[1]


def _sources(chosen: str, sites: tuple[str, str]) -> list[int]:
    names = chosen.split(",") if chosen else sites
    for name in names:
        if name not in sites:
            raise InputError(f"--sources={chosen}: no site {name}, expected {' or '.join(sites)}")
    return [sites.index(name) for name in names]


def _task(
    arguments: argparse.Namespace,
    sites: tuple[str, str],
    shared: Setting,
    config: str,
    direction: str,
    source: int,
    row: int,
) -> Task:
    appearance, shape, spacing = ROWS[row]
    setting = {
        "istn.appearance": appearance,
        "istn.shape": shape,
        "istn.spacing": spacing if arguments.full else spacing // 2,
        "istn.direction": direction,
        "istn.reference": sites[1 - source],
        "data.participants": arguments.participants,
        "data.simulated_fraction": arguments.fraction,
        "cache_dir": str(arguments.runs / "cache"),
    }
    variant = "paper" if arguments.full else ""
    of_data = "own" if arguments.participants else "simulated"
    kind = f"istn_{config}_{of_data}_{variant or 'small'}_{arguments.fraction:g}"
    folder = arguments.runs / kind / direction / f"from_{sites[source]}" / f"{appearance}-{shape}-{spacing}"
    return Task(config, variant, setting | shared, folder)


def markdown(
    table: list[dict[str, Any]], sites: tuple[str, str], own: bool, changed: Sequence[str] = (), full: bool = False
) -> str:
    """The tables as text: one a config, direction and source."""
    first = table[0]["results"]
    lines = [
        "# Tables 2 and 3, brains of two sites",
        "",
        f"Written by `python -m experiments.istn_brain` {provenance(first)};",
        f"seed {first['seed']}; " + ("volumes of one's own." if own else "SIMULATED volumes."),
        *beside_the_config(changed),
        "On held-out subjects with 95% intervals: accuracy in % (sex), MAE in years (age). `single site` is the task",
        "model on its own site, `before` the same model on the other one; then the models retrained on S2T, from",
        "scratch and fine-tuned. The paper's cells are on its own cohorts: before, then Acc_s / Acc_f or MAE_s.",
    ]
    if not full:
        lines += [
            "Not the paper's game: a residual ITN, a loss on its change, a gradient penalty, instance noise, a small",
            "discriminator without norm (`eqpool.presets.use_brain_istn`), or it runs away; and what is kept is the",
            "running mean of the weights. `--full` is the paper's.",
        ]
    for config, direction, source in dict.fromkeys(tuple(row["cell"][:3]) for row in table):
        paper = PAPER[config, direction, source]
        lines += ["", f"## {config}, {direction.replace('_', ' ')}, from {sites[source]} to {sites[1 - source]}", ""]
        lines.append("| ITN | STN | single site | before | scratch | fine-tuned | seconds | paper |")
        lines.append("|---" * 8 + "|")
        for row in (row for row in table if tuple(row["cell"][:3]) == (config, direction, source)):
            lines.append(
                _line(row["results"], row["cell"][3], "" if own else f"{paper[0]}, {paper[1 + row['cell'][3]]}")
            )
    return "\n".join(lines) + "\n"


def _line(results: dict[str, Any], row: int, paper: str) -> str:
    appearance, shape, spacing = ROWS[row]
    metrics = results["metrics"]
    key, digits = ("accuracy", 1) if "accuracy" in metrics else ("mae", 2)
    cells = [with_interval(metrics, f"{name}_{key}", digits) for name in SCORES]
    stn = f"B-spline ({spacing})" if shape == "bspline" else shape
    return f"| {appearance} | {stn} | " + " | ".join(cells) + f" | {results['wall_seconds']:.0f} | {paper} |"


if __name__ == "__main__":
    main()
