"""Runs in child processes that are killed: at once after a while, or by their own hand at a named moment.

The children are forked by a server that has imported everything and started nothing, so that one costs no import.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import threading
import time
from typing import Any

import nibabel
import numpy as np
import pandas as pd

from eqpool.config import RunConfig
from eqpool.storage.files import PART, read_arrays, read_json

PATIENCE_SECONDS = 300
# Name -> what is called then, and the how many-th call does not return.
MOMENTS = {
    "while a brain is simulated": ("eqpool.data.sources.simulated.scan", 5),
    "while a volume is prepared": ("eqpool.data.volumes.preparation.prepare_image", 7),
    "before prepared data gets its name": ("eqpool.data.volumes.prepare.write_json", 1),
    "before model.json": ("eqpool.methods.facts.ModelFacts.write", 1),
    "between an epoch and its record": ("eqpool.storage.logs.MetricsLog.append", 1),
    "before a checkpoint": ("eqpool.storage.checkpoints.Checkpoints.save", 2),
    "between file and name": ("eqpool.storage.files._sync", 4),
    "between file and name, later": ("eqpool.storage.files._sync", 12),
    "while evaluating": ("eqpool.methods.latent.evaluate", 1),
    "while the site is probed": ("eqpool.evaluate.evaluation.probe_metrics", 1),
    "while the site floor is probed": ("eqpool.evaluate.site_floor.site_floor_metrics", 1),
    "while the linear decoder is fitted": ("eqpool.methods.linear_decoder.fit_ridge", 1),
    "while volumes are harmonised": ("eqpool.methods.harmonised_volumes.measure", 2),
    "before the report": ("eqpool.commands.run.write_report", 1),
    "while predictions are written": ("eqpool.methods.istn._write_predictions", 1),
    "while examples are written": ("eqpool.methods.istn.istn_steps", 1),
    "while looks are compared": ("eqpool.methods.istn.look_metrics", 1),
}

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["tests.killing", "eqpool.commands.run", "eqpool.report.page", "eqpool.data.sources.morpho_mnist"]
)


class Child:
    """`run(config, folder)` in a process of its own; `moment` is one of `MOMENTS`, or None."""

    def __init__(self, config: RunConfig, folder: pathlib.Path, moment: str | None = None, quiet: bool = True):
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder.parent / f"{folder.name}.log"
        self._process = _context.Process(target=_run, args=(config, folder, moment, quiet, self._log))
        self._process.start()

    def kill_after(self, seconds: float, number: int = signal.SIGKILL) -> bool:
        """Whether the signal met a living process."""
        self._process.join(seconds)
        alive = self._process.exitcode is None
        if alive:
            os.kill(self._process.pid, number)  # type: ignore[arg-type]
        self.wait()
        return alive

    def wait(self) -> int:
        """The exit code; negative for a signal."""
        self._process.join(PATIENCE_SECONDS)
        assert self._process.exitcode is not None, f"the child hangs: {self.said()}"
        return self._process.exitcode

    def said(self) -> str:
        """What it wrote on stdout and stderr."""
        return self._log.read_text()


def _run(config: RunConfig, folder: pathlib.Path, moment: str | None, quiet: bool, log: pathlib.Path) -> None:
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import jax

    from eqpool.commands.run import run
    from eqpool.engine.loop import Preempted

    jax.config.update("jax_disable_most_optimizations", True)
    _keep_every_program()
    if moment:
        _arm(*MOMENTS[moment])
    try:
        run(config, folder, quiet=quiet)
    except Preempted as error:
        print(error)
        os._exit(143)


def _keep_every_program() -> None:
    """Also those that compile in less than half a second: a child that is to be killed has hundreds of them."""
    import jax

    from eqpool.commands import run

    use = run.use_compilation_cache

    def use_for_all(*arguments: Any) -> pathlib.Path:
        cache = use(*arguments)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        return cache

    run.use_compilation_cache = use_for_all


def _arm(target: str, count: int) -> None:
    """Replaces what is called `count` times so that the last call ends the process."""
    owner_name, _, name = target.rpartition(".")
    try:
        owner: Any = importlib.import_module(owner_name)
    except ModuleNotFoundError:
        module, _, class_name = owner_name.rpartition(".")
        owner = getattr(importlib.import_module(module), class_name)
    original, lock, calls = getattr(owner, name), threading.Lock(), [0]

    def armed(*arguments: Any, **options: Any) -> Any:
        with lock:
            calls[0] += 1
            if calls[0] == count:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(PATIENCE_SECONDS)
        return original(*arguments, **options)

    setattr(owner, name, armed)


def fresh(config: RunConfig, folder: pathlib.Path, compiled: pathlib.Path) -> None:
    """An empty work directory and an empty cache but for the programs compiled already."""
    for path in (folder, pathlib.Path(config.cache_dir)):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(compiled, pathlib.Path(config.cache_dir) / "compiled")


def check_whole(folders: list[pathlib.Path]) -> None:
    """Raises AssertionError where anything stands half-written under a final name."""
    readers = {
        ".json": read_json,
        ".npz": read_arrays,
        ".npy": lambda path: np.load(path, allow_pickle=False),
        ".gz": lambda path: np.asarray(nibabel.load(path).dataobj),
        ".tsv": lambda path: pd.read_csv(path, sep="\t"),
    }
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        hidden = any(part.startswith((PART, ".")) for part in path.parts[-6:])
        if hidden or {"checkpoints", "compiled"} & set(path.parts) or path.suffix not in readers:
            continue
        try:
            readers[path.suffix](path)
        except Exception as error:
            raise AssertionError(f"{path} is not whole: {error}") from error
        if path.suffix == ".tsv":
            assert path.read_text().endswith("\n"), path


def finished_epochs(folder: pathlib.Path) -> dict[str, int]:
    """The newest finished checkpoint of each stage."""
    found: dict[str, int] = {}
    for path in (folder / "checkpoints").glob("*/[0-9]*"):
        if path.name.isdigit():
            found[path.parent.name] = max(found.get(path.parent.name, 0), int(path.name))
    return found


def outcome(folder: pathlib.Path) -> dict[str, Any]:
    """All that two equal runs agree on, bit for bit: digests of every stage's last state, tables, metrics."""
    made: dict[str, Any] = {}
    for stage, epoch in finished_epochs(folder).items():
        record = json.loads((folder / "checkpoints" / stage / str(epoch) / "_CHECKPOINT_METADATA").read_text())
        made[stage] = (epoch, record["custom_metadata"]["sha256"])
    for name in ("embeddings.tsv", "predictions.tsv", "linear_decoder.npz"):
        with contextlib.suppress(FileNotFoundError):
            made[name] = (folder / name).read_bytes()
    results = read_json(folder / "results.json")
    return made | {"results": {key: value for key, value in results.items() if key != "wall_seconds"}}
