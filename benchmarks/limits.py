"""Measures the times for which there are limits on two CPU cores (after compilation).

    python -m benchmarks.limits [--only REGEX] [--output benchmarks/results/limits]

Every measurement is made in a fresh process (`benchmarks.harness`). It gives the median over its runs, the best, and
the processor time of a step over all threads. On two quiet cores a step takes between half of its processor time and
all of it. Only the line against PyTorch needs PyTorch. The table is printed as it grows, and saved as Markdown and
JSON.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness import Job, Results, in_turns, now

_HEADER = "| what | limit | measured | load |\n|---|---|---|--:|"
_GERMAN_EPOCHS = 501
_PAIRWISE_ROWS, _LINEAR_ROWS = 256, 4096
_ADNI = ("resnet3d", "step", {"shape": [91, 109, 91], "batch": 4})


def measure(*works: tuple[str, str, str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs each work (side, module, function, sizes) with `in_turns` and returns its measurements."""
    return list(in_turns({str(number): Job(*work) for number, work in enumerate(works)}).values())


def _in_words(one: dict[str, Any], digits: int = 2) -> str:
    """Returns the times of a measurement as text."""
    median, best, processor = (f"{one[which]:.{digits}f}" for which in ("median_ms", "best_ms", "processor_ms"))
    return f"{median} ms (best {best}, processor {processor})"


def _stage_step(name: str) -> str:
    """Measures a step on Adult, inside the scanned epoch and with its validation."""
    return _in_words(measure(("ours", "tables", "epoch", {"dataset": "adult", "name": name}))[0])


def german() -> str:
    """Measures 501 epochs of both stages on German, with validation."""
    names = ("stage_one", "stage_two")
    stages = measure(*(("ours", "tables", "epoch", {"dataset": "german", "name": name}) for name in names))
    whole = {
        which: sum(one[which] * one["steps"] for one in stages) * _GERMAN_EPOCHS
        for which in ("median_ms", "best_ms", "processor_ms")
    }
    return _in_words(whole, 0)


def equivariance() -> str:
    """Measures the equivariance loss of 65 536 and of 4096 rows, and compares the latter with the pairwise form."""
    sizes = [{"rows": rows, "n": 30} for rows in (65_536, _LINEAR_ROWS)]
    sizes.append({"rows": _PAIRWISE_ROWS, "n": 30, "form": "reference"})
    many, few, pairs = measure(*(("ours", "equivariance", "loss", one) for one in sizes))
    over_pairs = pairs["median_ms"] * (_LINEAR_ROWS / _PAIRWISE_ROWS) ** 2
    return (
        f"{_in_words(many, 0)}, {many['peak_bytes'] / 1e6:.0f} MB; at {_LINEAR_ROWS} {_in_words(few)}, "
        f"{over_pairs / few['median_ms']:.0f}x the pairwise form ({_in_words(pairs, 0)} at {_PAIRWISE_ROWS}, times 256)"
    )


def mmd() -> str:
    """Measures the MMD forward and with its gradient."""
    sizes = [{"rows": 17_000, "sites": 3, "gradient": gradient} for gradient in (False, True)]
    forward, gradient = (
        f"{_in_words(one, 0)}, {one['peak_bytes'] / 1e6:.0f} MB"
        for one in measure(*(("ours", "mmd", "loss", size) for size in sizes))
    )
    return f"{forward}; with gradient {gradient}"


def adni() -> str:
    """Measures the step of the ADNI-size encoder, in turns with PyTorch's."""
    ours, torch = measure(("ours", *_ADNI), ("pytorch", *_ADNI))
    return f"{ours['median_ms'] / torch['median_ms']:.1f}x: {_in_words(ours, 0)} against {_in_words(torch, 0)}"


def istn() -> str:
    """Measures the step of an affine and of a B-spline ISTN."""
    sizes = [{"kind": kind, "side": 64, "batch": 2} for kind in ("affine", "bspline")]
    measured = measure(*(("ours", "istn", "step", size) for size in sizes))
    return "; ".join(f"{size['kind']} {_in_words(one, 0)}" for size, one in zip(sizes, measured, strict=True))


def limits() -> Iterator[tuple[str, str, Callable[[], str]]]:
    """Yields the name of each limited computation, its limit and the function that measures it."""
    yield "Adult stage one, a step of 128", "1.5 ms (aim 1.0)", lambda: _stage_step("stage_one")
    yield "Adult stage two, a step of 128", "0.5 ms", lambda: _stage_step("stage_two")
    yield "German, 501 + 501 epochs", "10 s", german
    yield "equivariance loss with gradient, 65 536 x 30 x 30", "O(N), 100x the pairwise form at 4096", equivariance
    yield "MMD, 17 000 x 30", "2 s, 1 GB", mmd
    yield "ADNI-size step, 91x109x91, batch 4, over PyTorch's", "4x (aim 2x)", adni
    yield "ISTN step, 64^3, batch 2", "7.5 s (aim 3.75)", istn


def _as_line(row: dict[str, Any]) -> str:
    """Returns a row in Markdown."""
    return f"| {row['what']} | {row['limit']} | {row['measured']} | {row['load_average']:.1f} |"


def main() -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a regular expression; limits whose name it is found in")
    parser.add_argument("--output", default="benchmarks/results/limits", help="path without suffix")
    arguments = parser.parse_args()
    results = Results(pathlib.Path(arguments.output), "python -m benchmarks.limits", _HEADER, _as_line)
    for what, limit, measure_it in limits():
        if re.search(arguments.only, what):
            try:
                measured = measure_it()
            except RuntimeError as error:
                measured = f"not measured: {error}"
            results.add({"what": what, "limit": limit, "measured": measured} | now(), [one[0] for one in limits()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
