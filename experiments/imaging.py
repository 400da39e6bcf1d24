"""The imaging half of paper A's experiments: several methods over several splits of one cohort of volumes.

Shared by table2_adni, table2_adcp, small_support and rescanned. A method's setting is chosen on the first split's
validation rows by the paper's rule (`experiments.table2.select`); some of them are test rows of the later splits, the
same for every method. Every run has a work directory of its own, so that an interrupted experiment goes on.
"""

import argparse
import dataclasses
import datetime
import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from eqpool.commandline import complain, make_parser
from eqpool.data.participants import read_participants
from eqpool.errors import InputError, to_path
from eqpool.files import write_json, write_text
from experiments.cells import beside_the_config, in_words, mean_and_deviation, provenance, settings_to_try
from experiments.runner import Setting, Task, add_run_flags, count, folder_name, parse_settings, run_all, some_of
from experiments.table2 import METHODS, SITE_WEIGHTS, select

SPLITS = 5  # random 80/20 splits (method.md section 6)
OURS_WEIGHTS = ("stage_two.mmd_weight", (5.0, 20.0, 80.0))
# Label, key of results.json, digits.
COLUMNS = (
    ("delta_eq", "delta_eq", 2),
    ("ratio to permuted", "delta_eq_ratio_to_permuted", 2),
    ("equivariance error", "equivariance_error", 2),
    ("Adv %", "adversary", 1),
    ("site from Phi", "strongest_probe", 3),
    ("site floor", "site_floor", 3),
    ("site from tau^-1 Phi", "strongest_probe_covariate_free", 3),
    ("of shuffled sites", "strongest_probe_covariate_free_shuffled", 3),
    ("M unbiased", "mmd", 2),
    ("M published", "mmd_published", 2),
    ("M of tau^-1 Phi", "mmd_covariate_free", 2),
    ("ACC %", "accuracy", 1),
    ("age MAE", "kept_age_mae", 2),
)


@dataclasses.dataclass(frozen=True)
class Imaging:
    """One experiment on volumes.

    Attributes:
      folder: of the experiment, under experiments/.
      config: name of a file in configs/.
      title: of its table.
      fixed: dotted config keys that every run shares.
      methods: by default compared.
      own: what the data are, where one's own table has to be given; "": simulated by default.
      paper: method to the paper's cells as printed; "" where the paper has none.
    """

    folder: str
    config: str
    title: str
    paper: dict[str, str]
    fixed: Setting = dataclasses.field(default_factory=dict)
    methods: tuple[str, ...] = METHODS
    own: str = ""

    def settings(self, method: str) -> list[Setting]:
        """What to choose from, as dotted config keys."""
        return settings_to_try(method, OURS_WEIGHTS, SITE_WEIGHTS)


def main(experiment: Imaging) -> None:
    """Runs or resumes the experiment; writes table.md and .json into its folder, of one's own cohort table_own."""
    parser = make_parser(
        f"experiments.{experiment.folder}",
        f"{experiment.title}.\n\nExample: python -m experiments.{experiment.folder}\n\n{__doc__}",
    )
    of_data = "participants.tsv of " + ("the cohort" if experiment.own else "a real cohort; default: simulated")
    parser.add_argument("--participants", default="", required=bool(experiment.own), help=of_data)
    parser.add_argument("--paper", action="store_true", help="the paper's protocol (:paper), for an accelerator")
    methods = ",".join(experiment.methods)
    parser.add_argument("--methods", type=some_of(METHODS), default=methods, help="comma-separated")
    parser.add_argument("--splits", type=count, default=SPLITS, help="random splits of the cohort")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a config key for every run")
    add_run_flags(parser, jobs=1)
    options = parser.parse_args()
    try:
        check_splits(options.participants, options.splits)
        table = compute(experiment, options)
    except InputError as error:
        sys.exit(complain(error))
    name = f"table{'_own' if options.participants else ''}{'_paper' if options.paper else ''}"
    path = pathlib.Path(__file__).parent / experiment.folder / name
    facts = {"date": datetime.date.today().isoformat(), "set": options.set, "rows": table}
    write_json(path.with_suffix(".json"), facts)
    write_text(path.with_suffix(".md"), markdown(experiment, table, options.set))


def check_splits(participants: str, splits: int) -> None:
    """Raises `InputError` where a table has a split of its own, of which several runs would be one and the same."""
    if participants and splits > 1 and "split" in read_participants(to_path(participants)).frame:
        raise InputError(f"{participants}, column split: every run would have this one split; expected --splits=1")


def compute(experiment: Imaging, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a method: the chosen setting, and its results over the splits."""
    variant = "paper" if options.paper else ""
    shared = {"cache_dir": str(options.runs / "cache"), "output.harmonised": "none"} | experiment.fixed
    shared |= {"data.participants": options.participants} if options.participants else {}
    shared |= parse_settings(options.set)
    methods = options.methods
    changed = repr((options.participants, sorted(options.set)))
    own = f"_{hashlib.sha256(changed.encode()).hexdigest()[:8]}" if options.participants or options.set else ""
    runs = options.runs / experiment.folder / f"{variant or 'small'}{own}"  # of other data or settings, other folders

    def task(method: str, setting: Setting, split: int) -> Task:
        folder = runs / method / folder_name(setting) / str(split)
        return Task(experiment.config, variant, shared | {"method": method, "data.split_seed": split} | setting, folder)

    tried = [(method, setting) for method in methods for setting in experiment.settings(method)]
    first = run_all([task(*one, 0) for one in tried], options.jobs, experiment.folder)
    chosen = {
        method: select([(one[1], results) for one, results in zip(tried, first, strict=True) if one[0] == method])
        for method in methods
    }
    rest = [(method, split) for method in methods for split in range(1, options.splits)]
    others = run_all([task(m, chosen[m][0], split) for m, split in rest], options.jobs, experiment.folder)
    return [
        {
            "method": method,
            "setting": chosen[method][0],
            "results": [chosen[method][1], *(r for (m, _), r in zip(rest, others, strict=True) if m == method)],
        }
        for method in methods
    ]


def markdown(experiment: Imaging, table: list[dict[str, Any]], changed: Sequence[str] = ()) -> str:
    """The table as text: mean (standard deviation) over the splits."""
    first = table[0]["results"][0]
    kind = experiment.own or ("SIMULATED data" if first["simulated"] else "Real data")
    lines = [
        f"# {experiment.title}",
        "",
        f"{kind}. Written by `python -m experiments.{experiment.folder}` {provenance(first)};",
        f"{len(table[0]['results'])} splits; mean (standard deviation). The paper's cells are on its own cohort.",
        *beside_the_config(changed),
        "",
        "| method | " + " | ".join(label for label, _, _ in COLUMNS) + " | setting | paper |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for row in table:
        cells = [
            mean_and_deviation([r["metrics"].get(key) for r in row["results"]], digits) for _, key, digits in COLUMNS
        ]
        ends = f" | {in_words(row['setting'])} | {experiment.paper.get(row['method'], '')} |"
        lines.append(f"| {row['method']} | " + " | ".join(cells) + ends)
    return "\n".join(lines) + "\n"
