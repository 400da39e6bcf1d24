"""Compares eqpool with PyTorch on this machine, in a table of times, their ratios and memory.

    python -m benchmarks.against_torch [--only REGEX] [--output benchmarks/results/against_torch]

Each side of a row runs in a fresh process, in turns with the others (`benchmarks.harness`). The ratio is PyTorch's time
over ours. "Of the best" is the ratio of the fastest runs. If PyTorch can be written in several ways, all of them are
run and the fastest is shown. The table is printed as it grows, and saved as Markdown and JSON with device, versions and
dates.
"""

import argparse
import importlib.util
import pathlib
import re
import sys
from typing import Any

from benchmarks.comparisons import Comparison, comparisons
from benchmarks.harness import Job, Results, in_turns, now

_HEADER = """\
| what | ours ms | PyTorch ms | PyTorch is | PyTorch / ours | of the best | ours MB | PyTorch MB |
|---|--:|--:|---|--:|--:|--:|--:|"""


def main() -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a regular expression; rows whose name it is found in")
    parser.add_argument("--output", default="benchmarks/results/against_torch", help="path without suffix")
    arguments = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print("benchmarks.against_torch needs PyTorch: pip install 'eqpool[torch-benchmarks]'", file=sys.stderr)
        return 2
    results = Results(pathlib.Path(arguments.output), "python -m benchmarks.against_torch", _HEADER, _as_line)
    for comparison in comparisons():
        if re.search(arguments.only, comparison.name):
            results.add(_compare(comparison), [one.name for one in comparisons()])
    return 0


def _compare(comparison: Comparison) -> dict[str, Any]:
    """Measures one row and returns it in the form of the JSON file."""
    jobs = {"ours": Job("ours", comparison.module, comparison.function, comparison.sizes)}
    for variant in comparison.variants:
        sizes = comparison.sizes | variant
        jobs[comparison.variant_name(variant)] = Job("pytorch", comparison.module, comparison.function, sizes)

    def leave_out(name: str, error: RuntimeError) -> None:
        print(f"{comparison.name}, {name}: left out, {error}", file=sys.stderr)

    return {"what": comparison.name, "sizes": comparison.sizes, "sides": in_turns(jobs, leave_out)} | now()


def _as_line(row: dict[str, Any]) -> str:
    """Returns a row in Markdown."""
    ours, others = row["sides"]["ours"], {name: side for name, side in row["sides"].items() if name != "ours"}
    if not others:
        return f"| {row['what']} | {ours['median_ms']:.3g} | does not run | | | | {ours['peak_bytes'] / 1e6:.0f} | |"
    best = min(others, key=lambda name: others[name]["median_ms"])
    other = others[best]
    return (
        f"| {row['what']} | {ours['median_ms']:.3g} | {other['median_ms']:.3g} | {best} "
        f"| {other['median_ms'] / ours['median_ms']:.2f} | {other['best_ms'] / ours['best_ms']:.2f} "
        f"| {ours['peak_bytes'] / 1e6:.0f} | {other['peak_bytes'] / 1e6:.0f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
