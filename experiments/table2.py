"""Table 2 of paper A: six methods, several seeds, both splits, one protocol; shared by table2_german and table2_adult.

Every run is `eqpool.run.run` in a work directory of its own, so that an interrupted experiment goes on where it was.
The setting of each method is chosen on the first seed's validation split by the paper's rule: the most invariant (by
the strongest site probe) among those within five points of the best validation accuracy. Test rows choose nothing.
"""

import dataclasses
import datetime
import itertools
import math
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from eqpool.commandline import complain, make_parser
from eqpool.errors import InputError
from eqpool.files import write_json, write_text
from experiments.cells import in_words, mean_and_deviation, provenance, settings_to_try
from experiments.runner import Setting, Task, add_run_flags, folder_name, run_all, some_of

SEEDS = (685, 648, 535)
SPLITS = ("raw", "published")
METHODS = ("naive", "mmd", "cai", "ss", "rm", "ours")
SITE_WEIGHTS = ("baseline.site_weight", (0.1, 1.0, 10.0))
WINDOW = 5.0  # points of validation accuracy

# Column, key of results.json, digits, which way is better; ours alone has an equivariance error.
COLUMNS = (
    ("delta_eq", "delta_eq", 2, "up"),
    ("ratio to permuted", "delta_eq_ratio_to_permuted", 2, "up"),
    ("equivariance error", "equivariance_error", 2, "down"),
    ("Adv %", "adversary", 1, "down"),
    ("Adv AUC", "adversary_auc", 2, "down"),
    ("strongest probe", "strongest_probe", 3, "down"),
    ("its AUC", "strongest_probe_auc", 3, "down"),
    ("site floor", "site_floor", 3, ""),
    ("M unbiased", "mmd", 2, "down"),
    ("p", "mmd_p_value", 3, "up"),
    ("M published", "mmd_published", 2, "down"),
    ("ACC", "accuracy", 1, "up"),
    ("rows dropped", "dropped_without_partner", 0, ""),
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One data set's half of Table 2.

    Attributes:
      name: of the config file and of the folder.
      mmd_weights: of stage two, to choose from for our method; the baselines choose from `SITE_WEIGHTS`.
      paper: the paper's row for each method, as printed: delta_eq, Adv, M, ACC.
    """

    name: str
    mmd_weights: tuple[float, ...]
    paper: dict[str, str]

    def settings(self, method: str) -> list[Setting]:
        """The settings of a method to choose from, as dotted config keys."""
        return settings_to_try(method, ("stage_two.mmd_weight", self.mmd_weights), SITE_WEIGHTS)


def main(experiment: Experiment) -> None:
    """Runs or resumes the experiment and writes table.md and table.json beside its code."""
    parser = make_parser(
        f"experiments.table2_{experiment.name}",
        f"Example: python -m experiments.table2_{experiment.name} --raw_dir=UCI\n\n{__doc__}",
    )
    parser.add_argument("--raw_dir", default="", help="folder with UCI's raw files, instead of downloading them")
    parser.add_argument("--published_dir", default="", help="folder with the published npz; without it, raw alone")
    add_run_flags(parser)
    parser.add_argument("--methods", type=some_of(METHODS), default=",".join(METHODS), help="comma-separated")
    arguments = parser.parse_args()
    folders = {"raw": arguments.raw_dir, "published": arguments.published_dir}
    splits = [split for split in SPLITS if split == "raw" or folders[split]]
    cells = list(itertools.product(splits, arguments.methods))
    here = pathlib.Path(__file__).parent / f"table2_{experiment.name}"
    started = time.monotonic()

    def task(split: str, method: str, seed: int, setting: Setting) -> Task:
        runs = arguments.runs
        folder = runs / f"table2_{experiment.name}" / split / method / folder_name(setting) / str(seed)
        own = {"method": method, "seed": seed, "cache_dir": str(runs / "cache")}
        own |= {"data.split": split, "data.raw_dir": folders[split]}
        return Task(experiment.name, "", own | setting, folder)

    try:
        choices = [(cell, setting) for cell in cells for setting in experiment.settings(cell[1])]
        first = run_all([task(*cell, SEEDS[0], setting) for cell, setting in choices], arguments.jobs, experiment.name)
        of_cell = [
            [(setting, results) for (cell, setting), results in zip(choices, first, strict=True) if cell == wanted]
            for wanted in cells
        ]
        chosen = [select(settings) for settings in of_cell]
        others = [
            task(*cell, seed, setting) for cell, (setting, _) in zip(cells, chosen, strict=True) for seed in SEEDS[1:]
        ]
        rest = run_all(others, arguments.jobs, experiment.name)
    except InputError as error:
        sys.exit(complain(error))
    size = len(SEEDS) - 1
    table = [
        _cell(*cell, of_cell[index], chosen[index], rest[index * size : (index + 1) * size])
        for index, cell in enumerate(cells)
    ]
    _write(experiment, here, table)
    print(f"{here}: {len(first) + len(others)} runs, {time.monotonic() - started:.0f} s, those done earlier skipped")


def _cell(
    split: str,
    method: str,
    tried: list[tuple[Setting, dict[str, Any]]],
    chosen: tuple[Setting, dict[str, Any]],
    others: list[dict[str, Any]],
) -> dict[str, Any]:
    """A row of the table: the chosen setting's metrics over all seeds."""
    setting, first = chosen
    results = [first, *others]
    return {
        "split": split,
        "method": method,
        "setting": setting,
        "tried": [
            {"setting": one} | {key: r["metrics"][key] for key in ("selection_accuracy", "selection_probe")}
            for one, r in tried
        ],
        "seeds": list(SEEDS),
        "metrics": {key: _values(results, key) for _, key, _, _ in COLUMNS},
        "wall_seconds": [r["wall_seconds"] for r in results],
        "versions": first["versions"],
        "device": first["device"],
    }


def select(tried: list[tuple[Setting, dict[str, Any]]]) -> tuple[Setting, dict[str, Any]]:
    """The paper's rule: the most invariant among those within five points of the best validation accuracy.

    Where validation rows are of one site, none is more invariant than another, and the first of them is chosen.

    Raises:
      InputError: a target without accuracy.
    """
    if any("selection_accuracy" not in results["metrics"] for _, results in tried):
        raise InputError("config.data.target: a number, expected classes: settings are chosen by their accuracy")
    best = max(results["metrics"]["selection_accuracy"] for _, results in tried)
    within = [one for one in tried if one[1]["metrics"]["selection_accuracy"] >= best - WINDOW]

    def told(results: dict[str, Any]) -> float:
        probe = results["metrics"].get("selection_probe")
        return math.inf if probe is None else probe

    return min(within, key=lambda one: told(one[1]))


def _values(results: list[dict[str, Any]], key: str) -> list[float | None]:
    return [r["counts"].get(key) if key in r["counts"] else r["metrics"].get(key) for r in results]


def _write(experiment: Experiment, folder: pathlib.Path, table: list[dict[str, Any]]) -> None:
    write_json(folder / "table.json", {"date": datetime.date.today().isoformat(), "rows": table})
    write_text(folder / "table.md", "\n".join(_markdown(experiment, table)) + "\n")


def _markdown(experiment: Experiment, table: list[dict[str, Any]]) -> Iterator[str]:
    first = table[0]
    yield f"# Table 2, {experiment.name}"
    yield ""
    yield f"Written by `python -m experiments.table2_{experiment.name}` {provenance(first)};"
    yield f"seeds {', '.join(map(str, SEEDS))}; mean (standard deviation) over seeds."
    yield "The paper's cells are delta_eq, Adv, M, ACC as printed, on its own split."
    for split in dict.fromkeys(row["split"] for row in table):
        yield ""
        yield f"## Split: {split}"
        yield ""
        header = [_arrow(label, better) for label, _, _, better in COLUMNS]
        yield "| method | " + " | ".join(header) + " | setting | paper |"
        yield "|---" * (len(COLUMNS) + 3) + "|"
        for row in (row for row in table if row["split"] == split):
            cells = [mean_and_deviation(row["metrics"][key], digits) for _, key, digits, _ in COLUMNS]
            ends = f" | {in_words(row['setting'])} | {experiment.paper[row['method']]} |"
            yield f"| {row['method']} | " + " | ".join(cells) + ends


def _arrow(label: str, better: str) -> str:
    return label + {"up": " ↑", "down": " ↓", "": ""}[better]
