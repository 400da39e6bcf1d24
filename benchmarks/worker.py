"""One side of one comparison in a process of its own: builds the work, then runs it as often as standard input says.

    python -m benchmarks.worker ours group_maps group_map '{"name": "cayley", "n": 30, "batch": 128, "gradient": true}'

Standard output has a line of JSON when the work is built and run once, one for every line `SECONDS` read (the seconds
of each run, for at least as long), and one with memory and a step's processor time at the end. Memory is the highest
resident size while the runs are timed, over the size after importing the framework.
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
    """Talks over standard input and output until the former ends."""
    factory = getattr(importlib.import_module(f"benchmarks.{side}.{module}"), function)
    if side == "pytorch":
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
    baseline = _resident_bytes()
    started = time.perf_counter()
    work = factory(**json.loads(sizes))
    _answer({"value": work.run(), "steps": work.steps, "first_seconds": time.perf_counter() - started})
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what compiling took and freed
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
    """The kernel's own record of the peak, started anew where it lets one."""

    def __init__(self):
        with contextlib.suppress(OSError):  # then the peak counts building and compiling too
            pathlib.Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        """VmHWM."""
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
