"""Ours against PyTorch, on this machine: a table of times, their ratio and memory.

    python -m benchmarks.against_torch [--only REGEX] [--output benchmarks/results/against_torch]

Each side of a row runs in a fresh process of its own; blocks of runs take turns (ours, PyTorch, ours, ...), so that
whatever else the machine does meets both. Times are medians over all runs of a step; the ratio is PyTorch's over ours.
"Of the best" is the ratio of the fastest runs, which other work on the machine disturbs least. Where PyTorch can be
written in several ways, all are run and the fastest is shown. Prints the table as it grows, and keeps it as Markdown
and JSON with device, versions and dates; rows that the same device and versions measured earlier stay in it.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.comparisons import Comparison, comparisons

ROUNDS, BLOCK_SECONDS = 5, 0.3
HEADER = """\
| what | ours ms | PyTorch ms | PyTorch is | PyTorch / ours | of the best | ours MB | PyTorch MB |
|---|--:|--:|---|--:|--:|--:|--:|"""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a regular expression; rows whose name it is found in")
    parser.add_argument("--output", default="benchmarks/results/against_torch", help="path without suffix")
    arguments = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print("benchmarks.against_torch needs PyTorch: pip install 'eqpool[torch-benchmarks]'", file=sys.stderr)
        return 2
    output = pathlib.Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    about, rows = machine(), {}
    if output.with_suffix(".json").exists():
        earlier = json.loads(output.with_suffix(".json").read_text())
        rows = {row["what"]: row for row in earlier["rows"]} if earlier["about"] == about else {}
    print(HEADER, flush=True)
    for comparison in comparisons():
        if re.search(arguments.only, comparison.name):
            rows[comparison.name] = compare(comparison)
            print(as_line(rows[comparison.name]), flush=True)
            keep([rows[one.name] for one in comparisons() if one.name in rows], about, output)
    return 0


def compare(comparison: Comparison) -> dict[str, Any]:
    """One row, as it is kept in JSON."""
    sides = {"ours": ("ours", {})}
    sides |= {comparison.variant_name(variant): ("pytorch", variant) for variant in comparison.variants}
    workers: dict[str, Worker] = {}
    for name, (side, variant) in sides.items():
        try:
            workers[name] = Worker(side, comparison.module, comparison.function, comparison.sizes | variant)
        except RuntimeError as error:
            print(f"{comparison.name}, {name}: left out, {error}", file=sys.stderr)
    for _ in range(ROUNDS):
        for worker in workers.values():
            worker.run(BLOCK_SECONDS)
    measured = {name: worker.finish() for name, worker in workers.items()}
    when = {"date": datetime.date.today().isoformat(), "load_average": round(os.getloadavg()[0], 1)}
    return {"what": comparison.name, "sizes": comparison.sizes, "sides": measured} | when


class Worker:
    """A process of benchmarks/worker.py."""

    def __init__(self, side: str, module: str, function: str, sizes: dict[str, Any]):
        command = [sys.executable, "-m", "benchmarks.worker", side, module, function, json.dumps(sizes)]
        # Passive: on a machine that others use, PyTorch's threads otherwise spin for one that is not scheduled (a loss
        # of 128 rows took 130 instead of 6 ms under load 13).
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self._built = self._read()
        self._seconds: list[float] = []

    def run(self, seconds: float) -> None:
        """For at least so many seconds."""
        print(seconds, file=self._process.stdin, flush=True)
        self._seconds += self._read()

    def finish(self) -> dict[str, Any]:
        """Ends the process; what it measured."""
        assert self._process.stdin
        self._process.stdin.close()
        memory = self._read()
        self._process.wait()
        steps = self._built["steps"]
        milliseconds = [1000 * one / steps for one in self._seconds]
        return self._built | memory | {
            "median_ms": statistics.median(milliseconds), "best_ms": min(milliseconds), "runs": len(milliseconds)
        }  # fmt: skip

    def _read(self) -> Any:
        assert self._process.stdout and self._process.stderr
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._process.stderr.read().strip().splitlines()[-1])
        return json.loads(line)


def as_line(row: dict[str, Any]) -> str:
    """A row in Markdown."""
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


def machine() -> dict[str, str]:
    """What rows have to share to stand in one table."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "torch", "flax", "numpy")}
    return {"device": f"{os.cpu_count()} cores, {_processor()}", "python": platform.python_version()} | versions


def keep(rows: list[dict[str, Any]], about: dict[str, str], output: pathlib.Path) -> None:
    """Writes `output`.json and `output`.md."""
    output.with_suffix(".json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    told = ", ".join(f"{name} {value}" for name, value in about.items())
    dates = ", ".join(sorted({row["date"] for row in rows}))
    load = max(row["load_average"] for row in rows)
    first = f"Measured by `python -m benchmarks.against_torch` on {dates}, load average at most {load}: {told}."
    output.with_suffix(".md").write_text("\n".join([first, "", HEADER, *map(as_line, rows)]) + "\n")


def _processor() -> str:
    information = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", information.read_text()) if information.exists() else None
    return found.group(1) if found else platform.processor()


if __name__ == "__main__":
    sys.exit(main())
