"""Runs of an experiment side by side, each in a work directory of its own, so that the same command resumes."""

import argparse
import ast
import contextlib
import functools
import importlib.util
import math
import multiprocessing
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from eqpool.checked_config import from_config_dict
from eqpool.config import RunConfig
from eqpool.errors import InputError
from eqpool.progress import track
from eqpool.run import run
from eqpool.train.loop import Preempted, TrainingDiverged
from experiments.shared_stage import before_stage_two, take_stage_one

Setting = dict[str, Any]


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
    """The results of every task, in order; `jobs` run at a time, those that are finished already are only read.

    Of tasks that differ only after stage one the first trains it for all, and the others wait for it. Where
    `keep_diverged` is set, one whose training diverges has `{"diverged": why}` for results; it would do so again.

    Raises:
      InputError: of the first task that fails, with its folder; no other task starts after it.
    """
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), prepare_worker, (jobs > 1,)) as pool:
        try:
            done = track(_in_waves(pool, tasks, keep_diverged), label, unit="run", total=len(tasks), leave=True)
            results = {task.folder: result for task, result in done}
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or it would be told after all the others
            raise
    return [results[task.folder] for task in tasks]


def _in_waves(
    pool: ProcessPoolExecutor, tasks: Sequence[Task], keep_diverged: bool
) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Every task with its results: first those that train a stage one, then those that take it from one of them."""
    first: dict[object, Task] = {}
    leader = [first.setdefault((*task[:2], before_stage_two(task.setting)), task) for task in tasks]
    run_one = functools.partial(_run, keep_diverged=keep_diverged)
    yield from zip(first.values(), pool.map(run_one, first.values()), strict=True)
    others = [(task, lead.folder) for task, lead in zip(tasks, leader, strict=True) if task is not lead]
    run_other = functools.partial(_run_after, keep_diverged=keep_diverged)
    for (task, _), result in zip(others, pool.map(run_other, others), strict=True):
        yield task, result


def folder_name(setting: Setting) -> str:
    """A work directory's name that tells the setting: `mmd_weight=5.0`; `default` where it is empty."""
    return "_".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in setting.items()) or "default"


def parse_settings(texts: Iterable[str]) -> Setting:
    """What --set gave, each by `parse_setting`."""
    return dict(map(parse_setting, texts))


def parse_setting(text: str) -> tuple[str, str]:
    """`"stage_one.epochs=3"` to a key and the text of its value, which `config_of` reads.

    Raises:
      InputError: there is no `=`.
    """
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--set={text}: expected KEY=VALUE, such as stage_one.epochs=3")
    return key, value


def add_run_flags(parser: argparse.ArgumentParser, jobs: int | None = None) -> None:
    """--jobs and --runs; by default a run a core, or `jobs` of runs that use every core by themselves."""
    said = "one a core" if jobs is None else f"{jobs}: a run uses every core by itself"
    default = os.cpu_count() if jobs is None else jobs
    parser.add_argument("--jobs", type=count, default=default, help=f"runs side by side; default: {said}")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"), help="where work directories go")


def count(text: str) -> int:
    """The type of a flag that takes a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'"{text}", expected a whole number of at least 1')
    return int(text)


def numbers(text: str) -> tuple[float, ...]:
    """The type of a flag that takes comma-separated numbers above 0."""
    try:
        values = tuple(float(number) for number in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f'"{text}", expected numbers above 0, separated by commas')
    return values


def some_of(known: Iterable[object]) -> Callable[[str], list[str]]:
    """The type of a flag that takes comma-separated names, each of them `known`."""
    names = [str(name) for name in known]

    def parse(text: str) -> list[str]:
        for name in text.split(","):
            if name not in names:
                raise argparse.ArgumentTypeError(f'{text}: "{name}", expected some of {", ".join(names)}')
        return text.split(",")

    return parse


def prepare_worker(one_thread: bool) -> None:
    """In each process of the pool, before jax starts: it ends with its parent, and computes on one thread if asked to.

    Runs side by side gain more from the cores than one run does.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if one_thread:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
    # Importing this module has imported jax, but only its first computation reads the flags.


def _end_with_parent() -> None:
    """A pool's process would wait for work for ever after its parent was killed; SIGTERM lets a run save first."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)  # the run takes the first one to save; the next one finds no handler


def config_of(task: Task) -> RunConfig:
    """The task's config, checked.

    Raises:
      InputError: a value that does not go.
    """
    path = pathlib.Path(__file__).parent.parent / "configs" / f"{task.config}.py"
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
    try:
        results = run(config_of(task), task.folder, quiet=True)
    except (InputError, TrainingDiverged, Preempted) as error:
        if keep_diverged and isinstance(error, TrainingDiverged):
            return {"diverged": str(error)}
        raise InputError(f"{task.folder}: {error}") from error
    return {key: value for key, value in results.items() if key != "notes"}  # they name folders of this machine
