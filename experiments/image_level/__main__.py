"""Image-level against feature-level pooling on the same cohort: `python -m experiments.image_level [--shape=none]`.

Paper B names the comparison as future work. An ISTN makes the images of one site look like the other's; ours makes
latents that do not tell the site. Both end in the same metrics on the same held-out subjects: naive and ours are
trained on the images as they are, and once more on what the ISTN made of them (the reference's stay as they are).
SIMULATED brains of two sites by default (configs/brain_sex.py), or a table of volumes of one's own.
"""

import datetime
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from eqpool.apply.derivatives import FOLDER, derivative_paths
from eqpool.commandline import complain, make_parser
from eqpool.config import DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.pipeline import load_cohort
from eqpool.errors import InputError
from eqpool.files import write_json, write_text
from eqpool.harmonise import reference_site
from eqpool.run import pooled_table
from experiments.cells import beside_the_config, provenance, with_interval
from experiments.runner import Setting, Task, add_run_flags, config_of, parse_settings, run_all

# Label, key of results.json, digits.
COLUMNS = (
    ("site from Phi", "strongest_probe", 3),
    ("site floor", "site_floor", 3),
    ("site from tau^-1 Phi", "strongest_probe_covariate_free", 3),
    ("M unbiased", "mmd", 2),
    ("ACC %", "accuracy", 1),
    ("age MAE", "kept_age_mae", 2),
)


class Row(NamedTuple):
    """What is compared: which images, and which method on them."""

    label: str
    images: str
    method: str


ROWS = (
    Row("no pooling", "original", "naive"),
    Row("feature level: stages one and two", "original", "ours"),
    Row("image level: ISTN", "harmonised", "naive"),
    Row("both", "harmonised", "ours"),
)


def main() -> None:
    """Runs or resumes the ISTN and the four runs after it, and writes table.md and table.json here."""
    parser = make_parser("experiments.image_level", __doc__)
    parser.add_argument("--participants", default="", help="own table with site, age and sex; default: simulated")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the simulated subjects")
    parser.add_argument("--shape", default="affine", help="of the ISTN: none, affine or bspline")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a config key for every run")
    add_run_flags(parser, jobs=1)
    options = parser.parse_args()
    own = "own" if options.participants else "simulated"
    folder = options.runs / "image_level" / f"{own}_{options.fraction:g}_{options.shape}"
    cache = options.runs / "cache"
    try:
        shared: Setting = {"cache_dir": str(cache)}
        istn = {
            "data.participants": options.participants,
            "data.simulated_fraction": options.fraction,
            "istn.shape": options.shape,
        }
        changed = parse_settings(options.set)
        first = Task("brain_sex", "", shared | istn | changed, folder / "istn")
        (harmonising,) = run_all([first], 1, "ISTN")
        config = config_of(first)
        cohort = load_cohort(config.data, cache)
        tables = write_tables(cohort, reference_site(config, cohort), first.folder, folder)
        shared |= changed  # what the runs are of, their own tables, goes before
        tasks = [Task("adni", "", shared | setting(row, tables, config.data), folder / _name(row)) for row in ROWS]
        results = run_all(tasks, options.jobs, "image_level")
    except InputError as error:
        sys.exit(complain(error))
    path = pathlib.Path(__file__).parent / ("table_own" if options.participants else "table")
    rows = [{"row": row._asdict(), "results": result} for row, result in zip(ROWS, results, strict=True)]
    facts = {"date": datetime.date.today().isoformat(), "shape": options.shape, "set": options.set}
    write_json(path.with_suffix(".json"), facts | {"istn": harmonising, "rows": rows})
    write_text(path.with_suffix(".md"), markdown(harmonising, results, [f"istn.shape={options.shape}", *options.set]))


def write_tables(cohort: Cohort, reference: int, istn: pathlib.Path, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """participants.tsv of the original and of the harmonised images, with the ISTN's own split in both.

    Raises:
      InputError: a scan of the other site without a harmonised volume.
    """
    frame = pooled_table(cohort).assign(path=[str(pathlib.Path(path).absolute()) for path in cohort.image_path])
    made = derivative_paths(istn / FOLDER, cohort.scan_name.tolist())
    other = (cohort.site >= 0) & (cohort.site != reference)  # who is of no known site has been left as they are
    missing = [path for path, is_other in zip(made, other, strict=True) if is_other and not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: not found; expected what the run in {istn} harmonised")
    harmonised = frame.assign(path=np.where(other, [str(path.absolute()) for path in made], frame["path"]))
    tables = {"original": frame, "harmonised": harmonised}
    for name, table in tables.items():
        write_text(folder / f"{name}.tsv", table.to_csv(sep="\t", index=False))
    return {name: folder / f"{name}.tsv" for name in tables}


def setting(row: Row, tables: dict[str, pathlib.Path], data: DataConfig) -> Setting:
    """Both stages or a baseline on the volumes of the row's table, on the ISTN's grid."""
    return {
        "method": row.method,
        "data.dataset": "participants",
        "data.participants": str(tables[row.images]),
        "data.outside_root": "allow",
        "data.site_column": "site",
        "data.target": data.target,
        "data.grid": data.grid,
        "output.harmonised": "none",
    }


def markdown(istn: dict[str, Any], results: list[dict[str, Any]], changed: Sequence[str] = ()) -> str:
    """The table as text, a row for each of `ROWS`, with 95% intervals."""
    lines = [
        "# Image-level against feature-level pooling",
        "",
        f"{'SIMULATED' if istn['simulated'] else 'Real'} volumes of two sites. Written by",
        f"`python -m experiments.image_level` {provenance(istn)}; seed {istn['seed']};",
        f"{istn['counts']['rows']} subjects, {results[0]['counts']['by_split']['test']} of them held out. The ISTN",
        "never saw the reference's labels; the encoders, after it and without it, saw all training labels. ACC is of",
        "the sex over both sites. With 95% intervals.",
        *beside_the_config(changed),
        "",
        "| pooling | " + " | ".join(label for label, _, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for row, result in zip(ROWS, results, strict=True):
        lines.append(
            f"| {row.label} | " + " | ".join(with_interval(result["metrics"], *column[1:]) for column in COLUMNS) + " |"
        )
    return "\n".join(lines) + "\n"


def _name(row: Row) -> str:
    return f"{row.images}_{row.method}"


if __name__ == "__main__":
    main()
