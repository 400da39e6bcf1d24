"""Measures the time until the first step: imports, and the first and second start of a command.

    python -m benchmarks.startup

The command is a dry run of configs/adni.py on a small simulated cohort: it reads the data and compiles a step of each
stage. The second start finds the prepared cohort and the compiled programs under `config.cache_dir`.
"""

import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.harness import about, seconds

_REPEATS = 5
_SMALL = "--config.data.simulated_fraction=0.06"
_COMMAND = [sys.executable, "-m", "eqpool.main", "--config=configs/adni.py", "--dry_run", _SMALL]


def _seconds_of(command: list[str]) -> float:
    """Runs a command, which has to succeed, and returns its wall seconds."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment))


def main() -> None:
    """Prints one line for the imports, and one for each start."""
    print(about())
    imports = ("import jax", "import eqpool; eqpool.mmd")  # eqpool imports its names when they are first used
    pairs = [[_seconds_of([sys.executable, "-c", code]) for code in imports] for _ in range(_REPEATS)]
    jax, eqpool = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"import jax {jax:.2f} s, import eqpool {eqpool:.2f} s: {eqpool - jax:.2f} s beyond (median of {_REPEATS})")
    with tempfile.TemporaryDirectory() as folder:
        command = [*_COMMAND, f"--config.cache_dir={folder}/cache", f"--workdir={folder}/run"]
        print(f"dry run of configs/adni.py, first start  {_seconds_of(command):.1f} s")
        print(f"dry run of configs/adni.py, second start {_seconds_of(command):.1f} s")


if __name__ == "__main__":
    main()
