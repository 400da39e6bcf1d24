"""Runs Tables 2 and 3 of Robinson et al. 2020: sex classification and age regression between two sites.

Sex is run one way and two ways, and age one way, with either site as the source and for every row of the tables. The
data are the SIMULATED cohorts of configs/brain_sex.py and configs/brain_age.py, or a table of the user's own volumes,
such as real ones with a known second scanner (`python -m eqpool.commands.rescan`). Without --full the volumes have 32^3
voxels, which a CPU can handle. With it they have the paper's 64^3. Rows that are run separately join one table.
"""

import argparse
import hashlib
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

from eqpool.data.tables.levels import code_labels
from eqpool.data.tables.participants import read_participants
from eqpool.errors import InputError
from experiments.flags import add_folder, add_jobs, add_set, parse_settings, some_of
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.runner import Setting, Task, config_of, run_all
from experiments.tables import (
    TASK_MODELS_KEPT,
    Measured,
    beside_the_config,
    joined,
    results_path,
    table,
    with_interval,
)

# (appearance, shape, spacing at 64^3). At 32^3 half the spacing gives the same number of control points.
ROWS = (("itn", "none", 8), ("itn", "affine", 8), ("itn", "bspline", 8), ("itn", "bspline", 16))
DIRECTIONS = {"brain_sex": ("one_way", "two_way"), "brain_age": ("one_way",)}
SITES = ("UKBB", "CamCAN")  # sites of the simulated cohorts, in the order of the paper's columns
SCORES = ("source", "before", "scratch", "finetuned")
_HEADER = ["ITN", "STN", "single site", "before", "scratch", "fine-tuned", "constant", "100 MMD²", "seconds", "paper"]
# (config, direction, index of the source) -> the paper's cells as printed, without an ITN and then for ROWS
_PAPER = {
    ("brain_sex", "one_way", 0): ("54.8", "79.1 / 72.2", "80.9 / 75.7", "78.3 / 76.5", "80.0 / 78.3"),
    ("brain_sex", "two_way", 0): ("54.8", "80.0 / 80.8", "70.4 / 82.4", "79.1 / 78.7", "73.0 / 67.8"),
    ("brain_sex", "one_way", 1): ("64.3", "86.2 / 78.2", "79.9 / 79.1", "80.3 / 84.5", "85.4 / 84.1"),
    ("brain_sex", "two_way", 1): ("64.3", "80.8 / 79.9", "82.4 / 72.0", "78.7 / 80.8", "67.8 / 68.6"),
    ("brain_age", "one_way", 0): ("5.13", "4.71", "4.58", "", "5.06"),
    ("brain_age", "one_way", 1): ("4.61", "", "", "", ""),
}


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    add_folder(parser, "--participants", "own table with site, age and sex; default: simulated")
    configs, directions, rows = some_of(DIRECTIONS), some_of(DIRECTIONS["brain_sex"]), some_of(range(len(ROWS)))
    parser.add_argument("--configs", type=configs, default="brain_sex,brain_age", help="comma-separated")
    parser.add_argument("--directions", type=directions, default="one_way,two_way", help="comma-separated")
    parser.add_argument("--sources", default="", help="names of sites to start from, comma-separated; default: both")
    parser.add_argument("--rows", type=rows, default="0,1,2,3", help="0 ITN alone, 1 affine, 2 and 3 B-spline")
    parser.add_argument("--full", action="store_true", help="64^3 and the paper's epochs, for an accelerator")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the simulated subjects")
    add_set(parser)
    add_jobs(parser)


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Runs the cells, or resumes them. Cells of an earlier table with the same facts stay in it.

    Raises:
      InputError: there are not two sites, a source is not one of them, or the flags leave no cell.
    """
    sites = _sites(options.participants)
    sources = _sources(options.sources, sites)
    cells = [
        (config, direction, source, row)
        for config in options.configs
        for direction in DIRECTIONS[config]
        if direction in options.directions
        for source, row in itertools.product(sources, map(int, options.rows))
    ]
    if not cells:
        raise InputError("--directions=two_way: brain_age goes one_way")
    tasks = [_task(options, sites, parse_settings(options.set), *cell) for cell in cells]
    results = run_all(tasks, options.jobs, experiment.name)
    new = [{"cell": cell, "results": result} for cell, result in zip(cells, results, strict=True)]
    variant = f"_{'own' if options.participants else 'simulated'}_{'full' if options.full else 'small'}"
    facts: dict[str, Any] = {"sites": list(sites), "set": options.set, "fraction": options.fraction}
    facts |= {"balance": config_of(tasks[0]).data.balance, "task_models": TASK_MODELS_KEPT}
    if options.participants:
        facts["participants"] = hashlib.sha256(options.participants.read_bytes()).hexdigest()[:16]
    path = results_path(options.output, experiment, variant)
    rows = sorted(joined(path, facts, new, ["cell"]), key=_place)
    content = facts | {"full": options.full, "rows": rows}
    return Measured(content, [row["results"] for row in rows], variant)


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    config, *rest = row["cell"]
    return list(DIRECTIONS).index(config), *rest


def _sites(participants: pathlib.Path | None) -> tuple[str, str]:
    if not participants:
        return SITES
    table_of_scans = read_participants(participants)
    table_of_scans.require("site", "site")
    names = code_labels(table_of_scans.names_in("site"))[1]
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
    options: argparse.Namespace,
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
        "istn.spacing": spacing if options.full else spacing // 2,
        "istn.direction": direction,
        "istn.reference": sites[1 - source],
        "data.participants": str(options.participants or ""),
        "data.simulated_fraction": options.fraction,
        "cache_dir": str(options.runs / "cache"),
    }
    variant = "paper" if options.full else ""
    of_data = "own" if options.participants else "simulated"
    kind = f"istn_{config}_{of_data}_{variant or 'small'}_{options.fraction:g}"
    folder = options.runs / kind / direction / f"from_{sites[source]}" / f"{appearance}-{shape}-{spacing}"
    return Task(config, variant, setting | shared, folder)


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the tables as text, one for each config, direction and source."""
    return "\n".join(_lines(experiment, content))


def _lines(experiment: Experiment, content: dict[str, Any]) -> Iterator[str]:
    own, sites = "participants" in content, content["sites"]
    first = content["rows"][0]["results"]
    yield ("Volumes of one's own. " if own else "SIMULATED volumes. ") + written_by(experiment.name, content, first)
    yield f"Seed {first['seed']}. On held-out subjects with 95% intervals: accuracy in % (sex), MAE in years (age)."
    yield "`single site` is the task model on its own site, `before` the same model on the other one; then the models"
    yield "retrained on S2T, from scratch and fine-tuned. The paper's cells: before, then Acc_s / Acc_f or MAE_s."
    yield "`constant` is the score on the other site of always giving its commonest class or median age. 100 MMD² is"
    yield "the distance of the sites' images, before to after, with the p value after."
    yield from beside_the_config(content["set"])
    if not content.get("full"):
        yield "Not the paper's objective: see `eqpool.config.presets.use_brain_istn`. `--full` is the paper's."
    for config, direction, source in dict.fromkeys(tuple(row["cell"][:3]) for row in content["rows"]):
        yield from ("", f"{config}, {direction.replace('_', ' ')}, from {sites[source]} to {sites[1 - source]}:", "")
        rows = [row for row in content["rows"] if tuple(row["cell"][:3]) == (config, direction, source)]
        paper = _PAPER[config, direction, source]
        of_paper = ["" if own else f"{paper[0]}, {paper[1 + row['cell'][3]]}" for row in rows]
        lines = zip(rows, of_paper, strict=True)
        yield from table(_HEADER, [[*_cells(row["results"], row["cell"][3]), printed] for row, printed in lines])


def _cells(results: dict[str, Any], row: int) -> list[str]:
    appearance, shape, spacing = ROWS[row]
    metrics = results["metrics"]
    key, digits = score_of(metrics)
    scores = [with_interval(metrics, f"{name}_{key}", digits) for name in SCORES]
    constant = "majority_accuracy" if key == "accuracy" else "constant_mae"
    scores.append(with_interval(metrics, f"before_{constant}", digits))
    return [appearance, stn_name(shape, spacing), *scores, image_distance(metrics), f"{results['wall_seconds']:.0f}"]


def stn_name(shape: str, spacing: int) -> str:
    """Returns an STN in words, with the spacing of a B-spline's control points in voxels."""
    return f"B-spline ({spacing})" if shape == "bspline" else shape


def score_of(metrics: dict[str, Any]) -> tuple[str, int]:
    """Returns the name of a task model's score, and the number of digits to show."""
    return ("accuracy", 1) if "accuracy" in metrics else ("mae", 2)


def image_distance(metrics: dict[str, Any]) -> str:
    """Returns 100 MMD^2 between the images of both sites before and after, or "" if it was not measured."""
    if "image_mmd_after" not in metrics:
        return ""
    before, after, p_value = (metrics[f"image_mmd_{name}"] for name in ("before", "after", "after_p_value"))
    return f"{before:.1f} to {after:.2f} (p {p_value:.3f})"
