"""Real multi-site tables: compares raw features, ComBat, the baselines of Lokhande et al. 2022 and ours.

The folder --cohorts contains one folder per cohort (fcon1000, abide1, ixi_thickness) with its participants.tsv. Every
method is fitted on a fold's training rows alone. This includes scaling, harmonisation, networks, the regression on
splines of age and on sex, and the probes and their settings. Separate runs of cohorts and methods are joined in one
table.
"""

import argparse
import os
from collections.abc import Iterator
from typing import Any

from threadpoolctl import threadpool_limits

from eqpool.config import COHORTS, RunConfig
from eqpool.engine.compilation import use_compilation_cache
from eqpool.errors import InputError
from eqpool.estimator import EquivariantPooling
from eqpool.storage.files import read_json
from eqpool.storage.run_folder import RunFolder
from experiments.cohorts.cohort import Table, load_table
from experiments.cohorts.protocol import evaluate, scores
from experiments.cohorts.unseen import describe_unseen, evaluate_unseen
from experiments.flags import add_folder, count
from experiments.provenance import made_here, written_by
from experiments.registry import Experiment
from experiments.tables import Measured, results_path, table

_BARS = {  # required: highest site accuracy and age MAE. Sex and diagnosis must be as predictable as from raw.
    "ixi_thickness": (0.58, 8.43),
    "abide1": (0.05 + 0.05, 3.50),
    "fcon1000": (0.056 + 0.05, 3.96),
}
_METHODS = ("raw", "combat", "naive", "mmd", "cai", "ss", "rm", "calibrated", "ours")
_COLUMNS = ("features", "site, transfer", "site, within", "age MAE", "R2", "sex", "dx")


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    add_folder(parser, "--cohorts", "folder with a folder a cohort", required=True)
    parser.add_argument("--names", default=",".join(COHORTS), help="comma-separated")
    parser.add_argument("--methods", default=",".join(_METHODS), help="comma-separated; raw first")
    parser.add_argument("--folds", type=count, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--epochs", type=count, default=150, help="of every network's stages")
    parser.add_argument("--unseen", action="store_true", help="also leave sites out of training altogether")
    parser.add_argument("--unseen_groups", type=int, default=0, help="so many groups of sites; 0: one site at a time")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Evaluates every method on every cohort. A stopped run continues at the fold where it stopped.

    Raises:
      InputError: a table is invalid, a method is unknown, or raw is not the first method.
    """
    # A run uses one thread: the probes are small, and parallel runs make better use of the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
    use_compilation_cache(RunConfig(), RunFolder(options.runs / "cohorts"))
    if not set(options.methods.split(",")) <= set(_METHODS):
        raise InputError(f"--methods={options.methods}: expected some of {', '.join(_METHODS)}")
    settings = {"folds": options.folds, "seed": options.seed, "epochs": options.epochs}
    names = options.names.split(",")
    with threadpool_limits(limits=1):
        rows = [row for name in names for row in _cohort(load_table(options.cohorts, name), options, settings)]
        unseen = _unseen_sites([load_table(options.cohorts, name) for name in names], options) if options.unseen else {}
    path = results_path(options.output, experiment, "")
    earlier = read_json(path) if path.is_file() else {}
    if earlier.get("settings") == settings:
        rows, unseen = _joined_rows(earlier["rows"], rows), earlier.get("unseen", {}) | unseen
    runs = [row["made"] for row in rows if "made" in row]
    return Measured({"settings": settings, "rows": rows, "unseen": unseen}, runs)


def _record(settings: dict[str, int], commits: set[str]) -> dict[str, Any]:
    """Returns the provenance of rows of the given commits. The config joins the settings and the estimator's."""
    estimator = EquivariantPooling(epochs=settings["epochs"]).get_params()
    return made_here(settings | {"estimator": estimator}, settings["seed"], commits)


def _cohort(table: Table, options: argparse.Namespace, settings: dict[str, int]) -> Iterator[dict[str, Any]]:
    raw: dict[str, Any] = {}
    for method in options.methods.split(","):
        found = evaluate(method, table, options.runs / "cohorts", options.folds, options.seed, options.epochs)
        raw = raw or found["told"].get("raw *", {})
        if not raw:
            raise InputError(f"--methods={options.methods}: expected raw as the first, which others are compared to")
        for representation, told in found["told"].items():
            values = scores(table, told, raw)
            row = {"cohort": table.name, "representation": representation.removesuffix(" *"), "scores": values}
            print(" | ".join(_cells(row)), flush=True)
            yield row | {"method": method, "chosen": found["chosen"], "made": _record(settings, found["commits"])}


def _unseen_sites(tables: list[Table], options: argparse.Namespace) -> dict[str, Any]:
    """Returns the scores of sites left out, by the name of the table. Of two sites none can be left out."""
    found = {}
    for one in tables:
        if len(one.site_names) < 3:
            print(f"{one.name}: {len(one.site_names)} sites, of which none is left out: a model needs two", flush=True)
            continue
        groups = min(options.unseen_groups, len(one.site_names))
        lines = evaluate_unseen(one, options.runs / "cohorts", groups, options.seed, options.epochs)
        print("\n".join(describe_unseen(lines)), flush=True)
        found[one.name] = {"groups": groups, "lines": lines}
    return found


def _joined_rows(earlier: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the union of both, ordered by cohort and method. A newer row replaces an earlier row of the same name."""
    by_name = {(row["cohort"], row["representation"]): row for row in [*earlier, *rows]}
    return sorted(by_name.values(), key=lambda row: (row["cohort"], _METHODS.index(row["method"])))


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the tables as text, one for each cohort, with the scores of unseen sites if they were measured."""
    return "\n".join(_lines(experiment, content))


def _lines(experiment: Experiment, content: dict[str, Any]) -> Iterator[str]:
    rows, unseen = content["rows"], content["unseen"]
    yield written_by(experiment.name, content)
    yield ", ".join(f"{key} {value}" for key, value in content["settings"].items()) + "."
    yield "Site: balanced accuracy of the strongest probe (p of a permutation test), age and sex regressed out;"
    yield "transfer: trained on training rows; within: cross-validated among held-out rows. Sex and dx: balanced"
    yield "accuracy (accuracy). A ! says that a paired test finds it worse than raw (p < 0.05)."
    for name in dict.fromkeys(row["cohort"] for row in rows):
        own = [row for row in rows if row["cohort"] == name]
        yield from ("", f"{name}, chance {own[0]['scores']['chance']:.3f}.")
        if name in _BARS:
            site, age = _BARS[name]
            yield f"The bar: site at most {site:.3f}, age MAE at most {age:.2f}, sex and dx as raw."
        yield from ("", *table(_COLUMNS, map(_cells, own)))
        if name in unseen:
            groups = unseen[name]["groups"]
            how = f"in {groups} groups" if groups else "one at a time"
            yield ""
            yield f"Sites left out of training, {how}, over all their rows but those that they are calibrated on:"
            yield ""
            yield from describe_unseen(unseen[name]["lines"])


def _cells(row: dict[str, Any]) -> list[str]:
    values = row["scores"]
    cells = [row["representation"], *(_site_cell(values, design) for design in ("transfer", "within"))]
    cells += [f"{values['age_mae']:.2f}{_mark(values, 'age')}", f"{values['age_r2']:.2f}"]
    for name in ("sex", "dx"):
        key = f"{name}_balanced_accuracy"
        accuracy = f"{values[key]:.3f} ({values[f'{name}_accuracy']:.3f}){_mark(values, name)}" if key in values else ""
        cells.append(accuracy)
    return cells


def _site_cell(values: dict[str, Any], design: str) -> str:
    if f"site_{design}_strongest" not in values:
        return ""
    best, probe, p_value = (values[f"site_{design}_{key}"] for key in ("strongest", "probe", "p"))
    return f"{best:.3f} {probe} (p {p_value:.3f})"


def _mark(values: dict[str, Any], name: str) -> str:
    return " !" if values[f"{name}_p_against_raw"] < 0.05 else ""
