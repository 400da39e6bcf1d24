"""Parallel execution of an experiment's runs. Each has its own work directory, so the same command resumes them."""

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
from eqpool.storage.run_folder import RunFolder
from experiments.provenance import ROOT, commit, config_hash

Setting = dict[str, Any]
PROVENANCE_FILE = "provenance.json"  # file in a work directory with the commit that finished the run
# Keys, or groups of keys, that the first stage does not read: pooling's stage one, or the task model of an ISTN.
_AFTER_FIRST_STAGE = ("stage_two.", "istn.", "evaluate.", "output.", "data.target_domain")
_CHOOSES_SOURCE = "istn.reference"  # all other sites are the source, on which the task model learns


class Task(NamedTuple):
    """One run, in a form that can be sent to another process.

    Attributes:
      config: name of a file in configs/.
      variant: variant of that config.
      setting: dotted config keys with their values. A value may also be given as text.
      folder: work directory.
    """

    config: str
    variant: str
    setting: Setting
    folder: pathlib.Path


def run_all(tasks: Sequence[Task], jobs: int, label: str, *, keep_diverged: bool = False) -> list[dict[str, Any]]:
    """Runs the tasks in parallel and returns their results, in order. Finished runs are only read.

    If several tasks share their first stage, the first of them trains it and the others wait for it. Each result has
    the keys `commit` and `config_hash` in addition to those of results.json.

    Args:
      tasks: tasks with different folders.
      jobs: number of processes.
      label: label of the progress bar.
      keep_diverged: True gives a task with diverging training the results `{"diverged": reason}` instead of an error,
        because it would diverge again.

    Raises:
      InputError: a task failed. The message names its folder. No other task starts after the first failure.
    """
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), prepare_worker, (jobs > 1,)) as pool:
        try:
            done = track(_in_waves(pool, tasks, keep_diverged), label, unit="run", total=len(tasks), leave=True)
            results = {task.folder: result for task, result in done}
        except BaseException:
            pool.shutdown(cancel_futures=True)  # otherwise the error would appear only after all other tasks
            raise
    return [results[task.folder] for task in tasks]


def _in_waves(
    pool: ProcessPoolExecutor, tasks: Sequence[Task], keep_diverged: bool
) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Yields tasks with their results, first the tasks that train a first stage and then those that copy it."""
    first: dict[object, Task] = {}
    leader = [first.setdefault((*task[:2], before_second_stage(task.setting)), task) for task in tasks]
    run_one = functools.partial(_run, keep_diverged=keep_diverged)
    yield from zip(first.values(), pool.map(run_one, first.values()), strict=True)
    others = [(task, lead.folder) for task, lead in zip(tasks, leader, strict=True) if task is not lead]
    run_other = functools.partial(_run_after, keep_diverged=keep_diverged)
    for (task, _), result in zip(others, pool.map(run_other, others), strict=True):
        yield task, result


def folder_name(setting: Setting) -> str:
    """Returns a folder name that shows the setting, such as `mmd_weight=5.0`, or `default` for an empty setting."""
    return "_".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in setting.items()) or "default"


def prepare_worker(one_thread: bool) -> None:
    """Prepares a process of the pool before jax starts, so that it ends with its parent.

    With `one_thread` it computes on one thread, because parallel runs use the cores better than one run does.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if one_thread:
        os.environ["LOKY_MAX_CPU_COUNT"] = "1"
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
    # This module has imported jax already, but jax reads the flags only at its first computation.


def _end_with_parent() -> None:
    """Ends a process of the pool after its parent, because it would otherwise wait for work forever.

    SIGTERM lets a run save its state first.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)  # the run handles the first signal by saving, and the next one ends the process


def config_of(task: Task) -> RunConfig:
    """Returns the checked config of a task.

    Raises:
      InputError: a key does not exist, or a value is not valid for its key.
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
    """Sets one key. A text is evaluated as a Python literal, unless the key takes texts."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            raise InputError(f"config.{key}: no such key")
        tree = tree[section]
    if isinstance(value, str) and not isinstance(tree.get(name), str):
        with contextlib.suppress(ValueError, SyntaxError):  # not a literal; the config's own check reports it
            value = ast.literal_eval(value)
    tree[name] = value


def _run_after(task_and_leader: tuple[Task, pathlib.Path], keep_diverged: bool) -> dict[str, Any]:
    task, leader = task_and_leader
    take_first_stage(leader, task.folder)
    return _run(task, keep_diverged)


def _run(task: Task, keep_diverged: bool, train: Callable[..., dict[str, Any]] = run) -> dict[str, Any]:
    """Returns the results of `train` with their commit, which is None for runs from before commits were recorded."""
    config, record = config_of(task), task.folder / PROVENANCE_FILE
    now = {"commit": commit(), "config_hash": config_hash(config)}  # read before the run, because HEAD may move
    finished = RunFolder(task.folder).is_finished
    try:
        results = train(config, task.folder, quiet=True)
    except (InputError, TrainingDiverged, Preempted) as error:
        if keep_diverged and isinstance(error, TrainingDiverged):
            return {"diverged": str(error)}
        raise InputError(f"{task.folder}: {error}") from error
    if not finished:
        write_json(record, now)
    made = read_json(record) if record.is_file() else now | {"commit": None}
    return {key: value for key, value in results.items() if key != "notes"} | made  # notes name this machine's folders


def before_second_stage(setting: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """Returns the part of a setting on which the first stage depends, in hashable form."""
    read = (key for key in setting if key == _CHOOSES_SOURCE or not key.startswith(_AFTER_FIRST_STAGE))
    return tuple(sorted((key, repr(setting[key])) for key in read))


def take_first_stage(finished: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies a pooling run's stage one, or the task model of an ISTN, with its log from a finished run to `folder`.

    Does nothing if `folder` already has that stage, or if the finished run has none. The checkpoints are put in place
    last and atomically, so an interrupted copy is repeated. With stage one the description of its data is copied, which
    has to be that of the new run. The task model has seen only the source, and the new run may have another target.
    """
    before, after = RunFolder(finished), RunFolder(folder)
    stage = next((name for name in ("stage_one", "task") if (before.checkpoints / name).is_dir()), None)
    if stage is None or (after.checkpoints / stage).exists():
        return
    part, target = folder / f"{stage}.copy", after.checkpoints / stage
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(before.checkpoints / stage, part)
    records = [record for record in MetricsLog(before.metrics_file).records() if record["stage"] == stage]
    write_text(after.metrics_file, "".join(json.dumps(record) + "\n" for record in records))
    if stage == "stage_one":
        shutil.copyfile(before.data_file, after.data_file)
        shutil.copyfile(before.pooled_file, after.pooled_file)
    target.parent.mkdir(exist_ok=True)
    part.rename(target)


def stored(path: pathlib.Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the arrays in a file. If the file does not exist, they are computed and written first.

    The key "commit" is added to the keys of `compute`. It holds the commit that computed them, or "" if it is unknown.
    """
    if not path.exists():
        write_arrays(path, compute() | {"commit": np.array(commit() or "")})
    return {"commit": np.array("")} | read_arrays(path)
