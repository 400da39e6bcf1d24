"""Prints where the processor time of a run of an ISTN goes.

    python -m benchmarks.run_phases CONFIG FOLDER KEY=VALUE...

The run is that of a config in configs/, in a new work directory FOLDER. Times are seconds of this process on all its
threads, so that other work on the machine hardly counts. Phases overlap where one is indented below another. A second
run with the same `cache_dir` shows what the caches of data and of compiled programs save.
"""

import argparse
import cProfile
import json
import pathlib
import pstats
import time
from collections.abc import Iterator, Sequence

from eqpool.commands.run import run
from experiments.flags import parse_settings
from experiments.runner import Task, config_of

# (what is printed, file, function) of each phase; a file's name may be its end
_PHASES = (
    ("compiling, or reading compiled programs", "compiler.py", "compile_or_get_cached"),
    ("loading the data", "eqpool/data/load.py", "load_cohort"),
    ("training the task model", "image_training.py", "train_on_images"),
    ("training the ISTN", "image_training.py", "train_on_pairs"),
    ("  epochs of both", "image_table.py", "epoch"),
    ("  validation of both", "image_training.py", "judge"),
    ("  checkpoints of both", "checkpoints.py", "save"),
    ("predicting held-out images", "methods/istn.py", "_predictions"),
    ("scores with intervals", "harmonisation.py", "task_metrics"),
    ("distance of the images", "methods/istn.py", "_compare_images"),
    ("examples", "methods/istn.py", "_write_examples"),
    ("harmonised volumes", "methods/istn.py", "_write_volumes"),
    ("scorecard", "methods/istn.py", "_score"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the config and prints its phases and its metrics."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_phases", description=__doc__)
    parser.add_argument("config", help="name of a file in configs/, such as morpho_mnist")
    parser.add_argument("folder", type=pathlib.Path, help="work directory, which should be new")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="config keys")
    options = parser.parse_args(argv)
    task = Task(options.config, "", parse_settings(options.settings), options.folder)
    profile = cProfile.Profile(time.process_time)
    results = profile.runcall(run, config_of(task), options.folder, quiet=True)
    for line in lines_of(pstats.Stats(profile)):
        print(line)
    print(json.dumps(results["metrics"]))


def lines_of(stats: pstats.Stats) -> Iterator[str]:
    """Yields a line for each phase that ran: its processor time, its calls and its name."""
    yield f"{stats.total_tt:8.1f} s in all"  # type: ignore[attr-defined]
    for what, file, function in _PHASES:
        found = [
            (calls, cumulative)
            for (path, _, name), (calls, _, _, cumulative, _) in stats.stats.items()  # type: ignore[attr-defined]
            if name == function and path.endswith(file)
        ]
        if found:
            calls, seconds = map(sum, zip(*found, strict=True))
            yield f"{seconds:8.1f} s {calls:5d} calls  {what}"


if __name__ == "__main__":
    main()
