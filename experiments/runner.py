"""Runs of an experiment side by side, each in a work directory of its own, so that the same command resumes."""

import ast
import contextlib
import functools
import importlib.util
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from eqpool.commands.run import run
from eqpool.config import RunConfig
from eqpool.config.check import from_config_dict
from eqpool.engine.loop import Preempted, TrainingDiverged
from eqpool.errors import InputError
from eqpool.storage.files import read_arrays, read_json, write_arrays, write_json, write_text
from eqpool.storage.logs import MetricsLog
from eqpool.storage.progress import track
from experiments.provenance import ROOT, commit, config_hash

Setting = dict[str, Any]
PROVENANCE_FILE = "provenance.json"  # of a work directory: the commit that finished the run
_AFTER_STAGE_ONE = ("stage_two.", "evaluate.", "output.")  # groups of keys that stage one does not read
_STAGE = "stage_one"


class Task(NamedTuple):
    """One run, in a form that another process takes.

    Attributes:
      config: name of a file in configs/.
      variant: of that config.
      setting: dotted config keys and their values, or the text of one.
      folder: the work directory.
    """

    config: str
    variant: str
    setting: Setting
    folder: pathlib.Path


def run_all(tasks: Sequence[Task], jobs: int, label: str, *, keep_diverged: bool = False) -> list[dict[str, Any]]:
    """Returns the results of every task, in order. `jobs` tasks run at a time; finished ones are only read.

    Of tasks that differ only after stage one the first trains it for all, and the others wait for it. Each result has
    the keys `commit` and `config_hash` beside those of results.json.

    Args:
      tasks: each with a folder of its own.
      jobs: processes.
      label: of the progress bar.
      keep_diverged: a task whose training diverges has the results `{"diverged": reason}`. It would diverge again.

    Raises:
      InputError: of the first task that fails, with its folder; no other task starts after it.
    """
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), prepare_worker, (jobs > 1,)) as pool:
        try:
            done = track(_in_waves(pool, tasks, keep_diverged), label, unit="run", total=len(tasks), leave=True)
            results = {task.folder: result for task, result in done}
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or the error would appear only after all the others
            raise
    return [results[task.folder] for task in tasks]


def _in_waves(
    pool: ProcessPoolExecutor, tasks: Sequence[Task], keep_diverged: bool
) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Yields tasks with their results: first those that train a stage one, then those that take it from one of them."""
    first: dict[object, Task] = {}
    leader = [first.setdefault((*task[:2], before_stage_two(task.setting)), task) for task in tasks]
    run_one = functools.partial(_run, keep_diverged=keep_diverged)
    yield from zip(first.values(), pool.map(run_one, first.values()), strict=True)
    others = [(task, lead.folder) for task, lead in zip(tasks, leader, strict=True) if task is not lead]
    run_other = functools.partial(_run_after, keep_diverged=keep_diverged)
    for (task, _), result in zip(others, pool.map(run_other, others), strict=True):
        yield task, result


def folder_name(setting: Setting) -> str:
    """Returns a work directory's name that shows the setting: `mmd_weight=5.0`; `default` where it is empty."""
    return "_".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in setting.items()) or "default"


def prepare_worker(one_thread: bool) -> None:
    """Prepares a process of the pool before jax starts: it ends with its parent, and computes on one thread if asked.

    Runs side by side gain more from the cores than one run does.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if one_thread:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
    # Importing this module has imported jax, but only its first computation reads the flags.


def _end_with_parent() -> None:
    """Ends a pool's process after its parent, or it would wait for work for ever. SIGTERM lets a run save first."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)  # the run takes the first one to save; the next one finds no handler


def config_of(task: Task) -> RunConfig:
    """Returns the task's config, checked.

    Raises:
      InputError: a key that does not exist, or a value that its key does not take.
    """
    path = ROOT / "configs" / f"{task.config}.py"
    spec = importlib.util.spec_from_file_location(task.config, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tree = module.get_config(task.variant).to_dict()
    for key, value in task.setting.items():
        _put(tree, key, value)
    return from_config_dict(ConfigDict(tree))


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets one key; a text becomes what Python reads in it, unless the key takes texts."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            raise InputError(f"config.{key}: no such key")
        tree = tree[section]
    if isinstance(value, str) and not isinstance(tree.get(name), str):
        with contextlib.suppress(ValueError, SyntaxError):  # a text after all, which the config's own check names
            value = ast.literal_eval(value)
    tree[name] = value


def _run_after(task_and_leader: tuple[Task, pathlib.Path], keep_diverged: bool) -> dict[str, Any]:
    task, leader = task_and_leader
    take_stage_one(leader, task.folder)
    return _run(task, keep_diverged)


def _run(task: Task, keep_diverged: bool) -> dict[str, Any]:
    """Returns the results of a run with its commit, which is None where it was finished before commits were kept."""
    config, record = config_of(task), task.folder / PROVENANCE_FILE
    now = {"commit": commit(), "config_hash": config_hash(config)}  # before a run, during which HEAD may move
    finished = (task.folder / "results.json").exists()
    try:
        results = run(config, task.folder, quiet=True)
    except (InputError, TrainingDiverged, Preempted) as error:
        if keep_diverged and isinstance(error, TrainingDiverged):
            return {"diverged": str(error)}
        raise InputError(f"{task.folder}: {error}") from error
    if not finished:
        write_json(record, now)
    made = read_json(record) if record.is_file() else now | {"commit": None}
    return {key: value for key, value in results.items() if key != "notes"} | made  # notes name folders of this machine


def before_stage_two(setting: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """Returns the part of a setting that its stage one depends on, hashable."""
    return tuple(sorted((key, repr(value)) for key, value in setting.items() if not key.startswith(_AFTER_STAGE_ONE)))


def take_stage_one(finished: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies stage one, its log and the data that it is of from a finished work directory to `folder`.

    Copies nothing where `folder` has a stage one, nor from a run without one. The checkpoints come last and whole: a
    copy that was cut short is made again.
    """
    source, target = finished / "checkpoints" / _STAGE, folder / "checkpoints" / _STAGE
    if not source.is_dir() or target.exists():
        return
    part = folder / f"{_STAGE}.copy"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    records = [record for record in MetricsLog(finished / "metrics.jsonl").records() if record["stage"] == _STAGE]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    for name in ("data.json", "pooled.tsv"):
        shutil.copyfile(finished / name, folder / name)
    target.parent.mkdir(exist_ok=True)
    part.rename(target)


def stored(path: pathlib.Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the arrays in a file, which are computed and written first where it is not there.

    The key "commit" is beside those of `compute`: the commit that computed them, "" where it is not known.
    """
    if not path.exists():
        write_arrays(path, compute() | {"commit": np.array(commit() or "")})
    return {"commit": np.array("")} | read_arrays(path)
