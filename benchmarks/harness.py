"""Timing of the benchmarks, and the tables of results.

`timed` measures in this process with pytest-benchmark. The function is warmed up first, and each result is waited for.
`in_turns` runs each job in a fresh process. Blocks of runs take turns, so that other work on the machine affects all
jobs alike. Times are medians over the runs of a step. The best time is also recorded, because other work on the machine
disturbs it least.
"""

import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

ROUNDS, BLOCK_SECONDS = 5, 0.3
_PACKAGES = ("jax", "torch", "flax", "numpy")


def about() -> dict[str, str]:
    """Returns the device and the versions, which all rows of a table have to share."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)}
    return {"device": f"{os.cpu_count()} cores, {_processor()}", "python": platform.python_version()} | versions


def now() -> dict[str, Any]:
    """Returns the date and the one-minute load average."""
    return {"date": datetime.date.today().isoformat(), "load_average": round(os.getloadavg()[0], 1)}


def timed(benchmark: Any, run: Callable[[], Any], *, rounds: int, warm_ups: int = 1, **sizes: Any) -> None:
    """Times `run`, and waits for each result. `sizes`, device and versions go into the row's extra information.

    Args:
      benchmark: pytest-benchmark's fixture.
      run: function to time. Its first call may compile.
      rounds: number of timed calls.
      warm_ups: number of calls before them.
      sizes: sizes on which the time depends.
    """
    import jax  # imported here, because PyTorch's side of a comparison is timed without JAX in its process

    benchmark.extra_info.update(sizes | {"accelerator": jax.devices()[0].device_kind} | about())
    benchmark.pedantic(lambda: jax.block_until_ready(run()), rounds=rounds, warmup_rounds=warm_ups)


def seconds(run: Callable[[], Any]) -> float:
    """Returns the wall seconds of one call. `run` has to wait for its own results."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


class Job(NamedTuple):
    """A job for a fresh process: a function of benchmarks/`side`/`module`.py with its arguments."""

    side: str
    module: str
    function: str
    sizes: dict[str, Any]


def in_turns(jobs: Mapping[str, Job], failed: Callable[[str, RuntimeError], None] | None = None) -> dict[str, Any]:
    """Runs each job in a process of its own, in turns.

    Args:
      jobs: jobs by name.
      failed: function that is called with the name and the error of a job that does not start. The job is left out.

    Returns:
      The results of each job by name: `median_ms`, `best_ms` and `processor_ms` of a step, `steps`, `runs`,
      `first_seconds`, `peak_bytes` and the computed `value`.

    Raises:
      RuntimeError: a job does not start, and there is no `failed`.
    """
    workers: dict[str, _Worker] = {}
    for name, job in jobs.items():
        try:
            workers[name] = _Worker(job)
        except RuntimeError as error:
            if failed is None:
                raise
            failed(name, error)
    for _ in range(ROUNDS):
        for worker in workers.values():
            worker.run(BLOCK_SECONDS)
    return {name: worker.finish() for name, worker in workers.items()}


class _Worker:
    """A process that runs benchmarks/worker.py."""

    def __init__(self, job: Job):
        command = [sys.executable, "-m", "benchmarks.worker", *job[:3], json.dumps(job.sizes)]
        # With active waiting on a shared machine, PyTorch's threads spin for a thread that is not scheduled (a loss of
        # 128 rows took 130 instead of 6 ms under load 13).
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self._built = self._read()
        self._seconds: list[float] = []

    def run(self, seconds: float) -> None:
        """Runs the job repeatedly for at least this many seconds."""
        print(seconds, file=self._process.stdin, flush=True)
        self._seconds += self._read()

    def finish(self) -> dict[str, Any]:
        """Ends the process and returns its measurements."""
        assert self._process.stdin
        self._process.stdin.close()
        memory = self._read()
        self._process.wait()
        milliseconds = [1000 * one / self._built["steps"] for one in self._seconds]
        times = {"median_ms": statistics.median(milliseconds), "best_ms": min(milliseconds), "runs": len(milliseconds)}
        return self._built | memory | times

    def _read(self) -> Any:
        assert self._process.stdout and self._process.stderr
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._process.stderr.read().strip().splitlines()[-1])
        return json.loads(line)


class Results:
    """A table in `output`.json and `output`.md that grows row by row.

    Earlier rows stay in it if they were measured on the same device with the same versions. Each row has the keys
    `what`, `date` and `load_average`.
    """

    def __init__(self, output: pathlib.Path, command: str, header: str, as_line: Callable[[dict[str, Any]], str]):
        self._output, self._command, self._header, self._as_line = output, command, header, as_line
        self._about = about()
        earlier = json.loads(self._json.read_text()) if self._json.exists() else {"about": None}
        self._rows = {row["what"]: row for row in earlier["rows"]} if earlier["about"] == self._about else {}
        print(header, flush=True)

    @property
    def _json(self) -> pathlib.Path:
        return self._output.with_suffix(".json")

    def add(self, row: dict[str, Any], order: Iterable[str]) -> None:
        """Prints a row, and writes both files with the rows in `order`. Rows that are not in `order` are dropped."""
        print(self._as_line(row), flush=True)
        self._rows[row["what"]] = row
        rows = [self._rows[what] for what in order if what in self._rows]
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._json.write_text(json.dumps({"about": self._about, "rows": rows}, indent=1) + "\n")
        machine = ", ".join(f"{name} {value}" for name, value in self._about.items())
        dates = ", ".join(sorted({row["date"] for row in rows}))
        load = max(row["load_average"] for row in rows)
        first = f"Measured by `{self._command}` on {dates}, load average at most {load}: {machine}."
        lines = [first, "", self._header, *map(self._as_line, rows)]
        self._output.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@functools.cache
def _processor() -> str:
    information = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", information.read_text()) if information.exists() else None
    return found.group(1) if found else platform.processor()
