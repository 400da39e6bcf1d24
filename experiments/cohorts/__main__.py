"""`python -m experiments.cohorts --cohorts=FOLDER`: real multi-site tables; table.md and table.json beside this file.

FOLDER holds a folder a cohort (fcon1000, abide1, ixi_thickness) with its participants.tsv. Every method is fitted on a
fold's training rows alone: scaling, harmonisation, networks, the residualising by splines of age and sex, probes and
their settings. Finished folds lie in --runs, so that the same command goes on where it was stopped.
"""

import argparse
import datetime
import importlib.metadata
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from eqpool.commandline import complain, make_parser
from eqpool.errors import InputError
from eqpool.files import read_json, write_json, write_text

BARS = {  # of issue 6: site, age MAE, sex and diagnosis as raw
    "ixi_thickness": (0.58, 8.43),
    "abide1": (0.05 + 0.05, 3.50),
    "fcon1000": (0.056 + 0.05, 3.96),
}
METHODS = ("raw", "combat", "naive", "mmd", "cai", "ss", "rm", "ours")
HERE = pathlib.Path(__file__).parent


def main(arguments: list[str]) -> int:
    """Runs or resumes; returns the exit code."""
    options = _parser().parse_args(arguments)
    # One thread each: the probes are small, and runs side by side gain more from the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
    import jax

    jax.config.update("jax_compilation_cache_dir", str((options.runs / "cache" / "compiled").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    started = time.monotonic()
    try:
        names = options.names.split(",")
        rows = [row for name in names for row in _cohort(name, options)]
        unseen = {name: _unseen(name, options) for name in names} if options.unseen else {}
    except InputError as error:
        return complain(error)
    settings = {"folds": options.folds, "seed": options.seed, "epochs": options.epochs}
    _write(options.output, rows, unseen, settings)
    print(f"{options.output}: {len(rows)} rows, {time.monotonic() - started:.0f} s, folds done earlier skipped")
    return 0


def _cohort(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from threadpoolctl import threadpool_limits

    from experiments.cohorts.cohort import load_table
    from experiments.cohorts.protocol import evaluate, scores

    table = load_table(options.cohorts, name)
    raw: dict[str, Any] = {}
    with threadpool_limits(limits=1):
        for method in options.methods.split(","):
            found = evaluate(method, table, options.runs / "cohorts", options.folds, options.seed, options.epochs)
            raw = raw or found["told"].get("raw *", {})
            if not raw:
                raise InputError(
                    f"--methods={options.methods}: expected raw as the first, which others are compared to"
                )
            for representation, told in found["told"].items():
                values = scores(table, told, raw)
                row = {"cohort": name, "representation": representation.removesuffix(" *"), "scores": values}
                print(_line(row), flush=True)
                yield row | {"method": method, "chosen": found["chosen"]}


def _unseen(name: str, options: argparse.Namespace) -> dict[str, Any]:
    from threadpoolctl import threadpool_limits

    from experiments.cohorts.cohort import load_table
    from experiments.cohorts.unseen import describe_unseen, evaluate_unseen

    table = load_table(options.cohorts, name)
    groups = min(options.unseen_groups, len(table.site_names))
    with threadpool_limits(limits=1):
        scores = evaluate_unseen(table, options.runs / "cohorts", groups, options.seed, options.epochs)
    print("\n".join(describe_unseen(scores)), flush=True)
    return {"groups": groups, "lines": scores}


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("experiments.cohorts", __doc__)
    parser.add_argument("--cohorts", type=pathlib.Path, required=True, help="folder with a folder a cohort")
    parser.add_argument("--names", default="ixi_thickness,abide1,fcon1000", help="comma-separated")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated; raw first")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--epochs", type=int, default=150, help="of every network's stages")
    parser.add_argument("--unseen", action="store_true", help="also leave sites out of training altogether")
    parser.add_argument("--unseen_groups", type=int, default=0, help="so many groups of sites; 0: one site at a time")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"), help="where folds are kept")
    parser.add_argument("--output", type=pathlib.Path, default=HERE, help="where table.md and table.json go")
    return parser


def _write(folder: pathlib.Path, rows: list[dict[str, Any]], unseen: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes both tables; lines of other cohorts and methods that were made with the same settings stay in them."""
    packages = ("jax", "flax", "scikit-learn", "numpy", "neuroCombat")
    versions = {name: importlib.metadata.version(name) for name in packages if _installed(name)}
    earlier = read_json(folder / "table.json") if (folder / "table.json").exists() else {}
    if earlier.get("settings") == settings:
        rows, unseen = _joined(earlier["rows"], rows), earlier.get("unseen", {}) | unseen
    content = {"date": datetime.date.today().isoformat(), "settings": settings, "versions": versions, "rows": rows}
    write_json(folder / "table.json", content | {"unseen": unseen})
    write_text(folder / "table.md", "\n".join(_markdown(rows, unseen, settings, versions)) + "\n")


def _joined(earlier: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both, a line that stands in both as it is now, in the order of cohorts and methods."""
    by_name = {(row["cohort"], row["representation"]): row for row in [*earlier, *rows]}
    return sorted(by_name.values(), key=lambda row: (row["cohort"], METHODS.index(row["method"])))


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


COLUMNS = "| features | site, transfer | site, within | age MAE | R2 | sex | dx |"


def _markdown(
    rows: list[dict[str, Any]], unseen: dict[str, Any], settings: dict[str, Any], versions: dict[str, str]
) -> Iterator[str]:
    from experiments.cohorts.unseen import describe_unseen

    yield "# Real cohorts"
    yield ""
    yield f"Written by `python -m experiments.cohorts` on {datetime.date.today().isoformat()}, "
    yield ", ".join(f"{key} {value}" for key, value in (settings | versions).items()) + "."
    yield ""
    yield "Site: balanced accuracy of the strongest probe (p of a permutation test), age and sex regressed out;"
    yield "transfer: trained on training rows; within: cross-validated among held-out rows. Sex and dx: balanced"
    yield "accuracy (accuracy). A ! says that a paired test finds it worse than raw (p < 0.05)."
    for name in dict.fromkeys(row["cohort"] for row in rows):
        own = [row for row in rows if row["cohort"] == name]
        yield ""
        yield f"## {name}, chance {own[0]['scores']['chance']:.3f}"
        if name in BARS:
            yield ""
            yield f"The bar: site at most {BARS[name][0]:.3f}, age MAE at most {BARS[name][1]:.2f}, sex and dx as raw."
        yield ""
        yield COLUMNS
        yield "|---" * 7 + "|"
        yield from (_line(row) for row in own)
        if name in unseen:
            yield ""
            groups = unseen[name]["groups"]
            how = f"in {groups} groups" if groups else "one at a time"
            yield f"Sites left out of training, {how}, over all their rows but those that they are calibrated on:"
            yield ""
            yield from describe_unseen(unseen[name]["lines"])


def _line(row: dict[str, Any]) -> str:
    values = row["scores"]
    cells = [row["representation"], *(_site_cell(values, design) for design in ("transfer", "within"))]
    cells += [f"{values['age_mae']:.2f}{_mark(values, 'age')}", f"{values['age_r2']:.2f}"]
    for name in ("sex", "dx"):
        key = f"{name}_balanced_accuracy"
        accuracy = f"{values[key]:.3f} ({values[f'{name}_accuracy']:.3f}){_mark(values, name)}" if key in values else ""
        cells.append(accuracy)
    return "| " + " | ".join(cells) + " |"


def _site_cell(values: dict[str, Any], design: str) -> str:
    if f"site_{design}_strongest" not in values:
        return ""
    best, probe, p_value = (values[f"site_{design}_{key}"] for key in ("strongest", "probe", "p"))
    return f"{best:.3f} {probe} (p {p_value:.3f})"


def _mark(values: dict[str, Any], name: str) -> str:
    return " !" if values[f"{name}_p_against_raw"] < 0.05 else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
