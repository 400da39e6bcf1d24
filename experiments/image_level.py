"""Compares image-level and feature-level pooling on one cohort, which Robinson et al. 2020 name as future work.

An ISTN makes the images of one site look like those of the other. Our method learns latents from which the site is not
predictable. Both are evaluated by the same metrics on the same held-out subjects. The methods naive and ours are
trained on the original images, and again on the images harmonised by the ISTN, which leaves the reference site's images
unchanged. The data are SIMULATED brains of two sites by default (configs/brain_sex.py), or the user's own table of
volumes.
"""

import argparse
import pathlib
from typing import Any, NamedTuple

import numpy as np

from eqpool.commands.run import pooled_table
from eqpool.config import DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.load import load_cohort
from eqpool.errors import InputError
from eqpool.methods.derivatives import derivative_paths
from eqpool.methods.istn import reference_site
from eqpool.storage.files import write_table
from eqpool.storage.run_folder import RunFolder
from experiments.flags import add_folder, add_jobs, add_set, parse_settings
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.runner import Setting, Task, config_of, run_all
from experiments.tables import Measured, beside_the_config, table, with_interval

# (label, key in results.json, digits)
_COLUMNS = (
    ("site from Phi", "strongest_probe", 3),
    ("site floor", "site_floor", 3),
    ("site from tau^-1 Phi", "strongest_probe_covariate_free", 3),
    ("M unbiased", "mmd", 2),
    ("ACC %", "accuracy", 1),
    ("age MAE", "kept_age_mae", 2),
)


class Row(NamedTuple):
    """A row of the table, which is one method on the original or the harmonised images."""

    label: str
    images: str
    method: str


ROWS = (
    Row("no pooling", "original", "naive"),
    Row("feature level: stages one and two", "original", "ours"),
    Row("image level: ISTN", "harmonised", "naive"),
    Row("both", "harmonised", "ours"),
)


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    add_folder(parser, "--participants", "own table with site, age and sex; default: simulated")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the simulated subjects")
    parser.add_argument("--shape", default="affine", help="of the ISTN: none, affine or bspline")
    add_set(parser)
    add_jobs(parser, jobs=1)


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Runs the ISTN and the four runs after it, or resumes them."""
    own = "own" if options.participants else "simulated"
    folder = options.runs / experiment.name / f"{own}_{options.fraction:g}_{options.shape}"
    cache = options.runs / "cache"
    shared: Setting = {"cache_dir": str(cache)}
    istn = {
        "data.participants": str(options.participants or ""),
        "data.simulated_fraction": options.fraction,
        "istn.shape": options.shape,
    }
    changed = parse_settings(options.set)
    first = Task("brain_sex", "", shared | istn | changed, folder / "istn")
    (harmonising,) = run_all([first], 1, "ISTN")
    config = config_of(first)
    cohort = load_cohort(config.data, cache)
    tables = write_tables(cohort, reference_site(config, cohort), first.folder, folder)
    shared |= changed  # the keys of a row's own table override these
    tasks = [Task("adni", "", shared | setting(row, tables, config.data), folder / _name(row)) for row in ROWS]
    results = run_all(tasks, options.jobs, experiment.name)
    rows = [{"row": row._asdict(), "results": result} for row, result in zip(ROWS, results, strict=True)]
    content = {"shape": options.shape, "set": options.set, "fraction": options.fraction}
    variant = "_own" if options.participants else ""
    return Measured(content | {"istn": harmonising, "rows": rows}, [harmonising, *results], variant)


def write_tables(cohort: Cohort, reference: int, istn: pathlib.Path, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes one participants table for the original and one for the harmonised images, both with the ISTN's split.

    Raises:
      InputError: a scan of the other site has no harmonised volume.
    """
    assert cohort.volumes is not None
    volumes = cohort.volumes
    frame = pooled_table(cohort).assign(path=[str(pathlib.Path(path).absolute()) for path in volumes.image_path])
    made = derivative_paths(RunFolder(istn).derivatives, volumes.scan_name.tolist())
    other = (cohort.site >= 0) & (cohort.site != reference)  # the ISTN leaves scans of an unknown site unchanged
    missing = [path for path, is_other in zip(made, other, strict=True) if is_other and not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: not found; expected what the run in {istn} harmonised")
    harmonised = frame.assign(path=np.where(other, [str(path.absolute()) for path in made], frame["path"]))
    tables = {"original": frame, "harmonised": harmonised}
    for name, one in tables.items():
        write_table(folder / f"{name}.tsv", one)
    return {name: folder / f"{name}.tsv" for name in tables}


def setting(row: Row, tables: dict[str, pathlib.Path], data: DataConfig) -> Setting:
    """Returns the config keys of a run on the volumes of a row's table, on the ISTN's grid."""
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


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table as text, with a row for each of `ROWS` and 95% intervals."""
    istn, results = content["istn"], [row["results"] for row in content["rows"]]
    held_out = results[0]["counts"]["by_split"]["test"]
    rows = [
        [row["row"]["label"], *(with_interval(row["results"]["metrics"], *column[1:]) for column in _COLUMNS)]
        for row in content["rows"]
    ]
    lines = [
        f"{'SIMULATED' if istn['simulated'] else 'Real'} volumes of two sites. "
        + written_by(experiment.name, content, istn),
        f"Seed {istn['seed']}; {istn['counts']['rows']} subjects, {held_out} of them held out. The ISTN never saw the",
        "reference's labels; the encoders, after it and without it, saw all training labels. ACC is of the sex over",
        "both sites. With 95% intervals.",
        *beside_the_config([f"istn.shape={content['shape']}", *content["set"]]),
        "",
        *table(["pooling", *(label for label, _, _ in _COLUMNS)], rows),
    ]
    return "\n".join(lines)


def _name(row: Row) -> str:
    return f"{row.images}_{row.method}"
