"""The times that two CPU cores are held to (after compilation), measured here.

    python -m benchmarks.limits [--only REGEX]

Every number comes from a fresh process (benchmarks/worker.py): the median over its runs, and the best, which a machine
that other work shares is nearer to when quiet. So is the processor time of a step, over all threads: on two quiet cores
a step takes between half of it and all of it. Only the line against PyTorch needs PyTorch.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.against_torch import BLOCK_SECONDS, ROUNDS, Worker

GERMAN_EPOCHS = 501
PAIRWISE_ROWS, LINEAR_ROWS = 256, 4096
ADNI = ("resnet3d", "step", {"shape": [91, 109, 91], "batch": 4})


def measure(*works: tuple[str, str, str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Each work (side, module, function, sizes) in a process of its own, taking turns."""
    workers = [Worker(*work) for work in works]
    for _ in range(ROUNDS):
        for worker in workers:
            worker.run(BLOCK_SECONDS)
    return [worker.finish() for worker in workers]


def stage_step(name: str) -> str:
    """Adult's step, inside the scanned epoch and with its validation."""
    (one,) = measure(("ours", "tables", "epoch", {"dataset": "adult", "name": name}))
    return f"{one['median_ms']:.2f} ms (best {one['best_ms']:.2f}, processor {one['processor_ms']:.2f})"


def german() -> str:
    """501 epochs of both stages, with validation."""
    stages = measure(
        *(("ours", "tables", "epoch", {"dataset": "german", "name": f"stage_{n}"}) for n in ("one", "two"))
    )
    median, best, processor = (
        sum(one[which] * one["steps"] for one in stages) * GERMAN_EPOCHS / 1000
        for which in ("median_ms", "best_ms", "processor_ms")
    )
    return f"{median:.1f} s (best {best:.1f}, processor {processor:.1f})"


def equivariance() -> str:
    """65 536 rows against 4096, and 4096 against all their pairs."""
    sizes = [{"rows": rows, "n": 30} for rows in (65_536, LINEAR_ROWS)]
    sizes.append({"rows": PAIRWISE_ROWS, "n": 30, "form": "reference"})
    many, few, pairs = measure(*(("ours", "equivariance", "loss", one) for one in sizes))
    over_pairs = pairs["median_ms"] * (LINEAR_ROWS / PAIRWISE_ROWS) ** 2
    return (
        f"{many['median_ms']:.0f} ms, {many['peak_bytes'] / 1e6:.0f} MB; {few['median_ms']:.1f} ms at {LINEAR_ROWS}, "
        f"{over_pairs / few['median_ms']:.0f}x the pairwise form ({pairs['median_ms']:.0f} ms at {PAIRWISE_ROWS}, "
        "times 256)"
    )


def mmd() -> str:
    """Forward and with its gradient."""
    sizes = [{"rows": 17_000, "sites": 3, "gradient": gradient} for gradient in (False, True)]
    told = [
        f"{one['median_ms'] / 1000:.2f} s and {one['peak_bytes'] / 1e6:.0f} MB"
        for one in measure(*(("ours", "mmd", "loss", size) for size in sizes))
    ]
    return f"{told[0]}; with gradient {told[1]}"


def adni() -> str:
    """In turns with PyTorch's."""
    ours, torch = measure(("ours", *ADNI), ("pytorch", *ADNI))
    return (
        f"{ours['median_ms'] / torch['median_ms']:.1f}x ({ours['median_ms']:.0f} against {torch['median_ms']:.0f} ms; "
        f"best {ours['best_ms']:.0f} against {torch['best_ms']:.0f}, "
        f"processor {ours['processor_ms']:.0f} against {torch['processor_ms']:.0f})"
    )


def istn() -> str:
    """Affine and B-spline."""
    sizes = [{"kind": kind, "side": 64, "batch": 2} for kind in ("affine", "bspline")]
    return "; ".join(
        f"{size['kind']} {one['median_ms'] / 1000:.2f} s (best {one['best_ms'] / 1000:.2f}, "
        f"processor {one['processor_ms'] / 1000:.2f})"
        for size, one in zip(sizes, measure(*(("ours", "istn", "step", size) for size in sizes)), strict=True)
    )


def limits() -> Iterator[tuple[str, str, Callable[[], str]]]:
    """What is limited, to what, and how it is measured."""
    yield "Adult stage one, a step of 128", "1.5 ms (aim 1.0)", lambda: stage_step("stage_one")
    yield "Adult stage two, a step of 128", "0.5 ms", lambda: stage_step("stage_two")
    yield "German, 501 + 501 epochs", "10 s", german
    yield "equivariance loss with gradient, 65 536 x 30 x 30", "O(N), 100x the pairwise form at 4096", equivariance
    yield "MMD, 17 000 x 30", "2 s, 1 GB", mmd
    yield "ADNI-size step, 91x109x91, batch 4, over PyTorch's", "4x (aim 2x)", adni
    yield "ISTN step, 64^3, batch 2", "7.5 s (aim 3.75)", istn


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a regular expression; limits whose name it is found in")
    only = parser.parse_args().only
    print("| what | limit | measured | load |\n|---|---|---|--:|", flush=True)
    for what, limit, measured in limits():
        if re.search(only, what):
            try:
                told = measured()
            except RuntimeError as error:
                told = f"not measured: {error}"
            print(f"| {what} | {limit} | {told} | {os.getloadavg()[0]:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
