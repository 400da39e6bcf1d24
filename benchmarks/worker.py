"""Runs one side of a comparison in a process of its own, controlled by standard input.

    python -m benchmarks.worker ours group_maps group_map '{"name": "cayley", "n": 30, "batch": 128, "gradient": true}'

The worker builds the work and runs it once. For every number of seconds on a line of standard input, it repeats the
work for at least that long. Standard output has one line of JSON after the first run, one with the seconds of each run
for every line read, and one with memory and a step's processor time at the end. Memory is the highest resident size
during the timed runs, minus the size after importing the framework.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import pathlib
import sys
import time


def main(side: str, module: str, function: str, sizes: str) -> None:
    """Builds the work and runs it until standard input ends."""
    factory = getattr(importlib.import_module(f"benchmarks.{side}.{module}"), function)
    if side == "pytorch":
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
    else:
        from eqpool.commands.memory import keep_freed_memory

        keep_freed_memory()  # as our commands do
    baseline = _resident_bytes()
    started = time.perf_counter()
    work = factory(**json.loads(sizes))
    _answer({"value": work.run(), "steps": work.steps, "first_seconds": time.perf_counter() - started})
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # returns the memory that compiling used and freed
    highest, runs, processor = _HighestResident(), 0, time.process_time()
    for line in sys.stdin:
        seconds, until = [], time.perf_counter() + float(line)
        while not seconds or time.perf_counter() < until:
            begun = time.perf_counter()
            work.run()
            seconds.append(time.perf_counter() - begun)
        runs += len(seconds)
        _answer(seconds)
    processor_ms = 1000 * (time.process_time() - processor) / max(runs, 1) / work.steps
    _answer({"peak_bytes": max(highest.bytes() - baseline, 0), "processor_ms": processor_ms})


class _HighestResident:
    """The kernel's record of the peak memory, which is reset here if the kernel allows it."""

    def __init__(self):
        with contextlib.suppress(OSError):  # without a reset, the peak includes building and compiling
            pathlib.Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        """Returns VmHWM in bytes."""
        return _status("VmHWM")


def _resident_bytes() -> int:
    return _status("VmRSS")


def _status(field: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def _answer(answer) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
