"""The work directory: who may write it, what it was made with, and its log."""

import contextlib
import fcntl
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from eqpool.config import RunConfig, differing_keys, to_dict
from eqpool.errors import InputError, to_path
from eqpool.storage.files import cannot_write, is_left_to_another, read_json, remove_parts, write_json, write_text

# Keys that change where, how often or how many at once, but not what is computed.
NEUTRAL_KEYS = ("cache_dir", "checkpoint_every_epochs", "devices", "tensorboard", "workers")

DATA_FILE = "data.json"  # the hash of the data that a folder was made from

LOG_FILE = "log.txt"  # what a run said

DECODED = (
    "decoded.json"  # of a fold of cross-fitted decodes, which stand in the folder above it (eqpool.methods.crossfit)
)

# What training writes first, and last; without them a work directory holds nothing that a config made.
COMPUTED = ("metrics.jsonl", "checkpoints", "results.json", DECODED)


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the work directory for this process; the operating system lets go of it however the process ends.

    Raises:
      InputError: if another run holds it, or if it cannot be written.
    """
    if is_left_to_another(workdir):
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        handle = open(workdir / ".lock", "w")  # noqa: SIM115 - held for as long as the run lasts
    except OSError as error:
        raise InputError(f"--workdir={workdir}: cannot be written ({error.strerror})") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--workdir={workdir}: another run is using it") from None
        except OSError as error:
            raise InputError(f"--workdir={workdir}: cannot be locked here ({error.strerror})") from None
        remove_parts(workdir)  # this process alone writes here, so they are a killed one's
        yield


def claim(workdir: pathlib.Path, config: RunConfig) -> None:
    """Writes config.json, or checks that the one there says the same.

    Where nothing has been computed yet, as after bad input, the config there is written over. Keys that it lacks are
    younger than it: their defaults compute what was computed without them.

    Raises:
      InputError: naming every key that differs.
    """
    path = workdir / "config.json"
    now = to_dict(config)
    if not path.exists() or not _has_computed(workdir):
        write_json(path, now)
        return
    before = _filled(read_json(path), to_dict(RunConfig()))
    differing = list(differing_keys(_without_neutral(before), _without_neutral(now)))
    if differing:
        raise InputError(f"--workdir={workdir} was made with another config: {'; '.join(differing)}")


def claim_data(workdir: pathlib.Path, data_hash: str, pooled: str, preparation: int = 0) -> None:
    """Writes data.json and pooled.tsv, or checks that what was computed there was computed from the same data.

    Networks that go on with another split would be tested on people whom they were trained on.

    Args:
      workdir: claimed.
      data_hash: by `eqpool.data.fingerprint`.
      pooled: the text of pooled.tsv.
      preparation: the version by which volumes were prepared; 0 where there are none.

    Raises:
      InputError: naming the first row that differs, or the version of the preparation.
    """
    table = workdir / "pooled.tsv"
    if _has_computed(workdir) and is_of_other_data(workdir, data_hash):
        _check_preparation(workdir, preparation)
        before = table.read_text("utf-8").splitlines() if table.exists() else []
        where = _first_difference(before, pooled.splitlines())
        raise InputError(f"--workdir={workdir} was made with other data: {where}")
    write_json(workdir / DATA_FILE, {"data_hash": data_hash, "preparation": preparation})
    write_text(table, pooled)


def _check_preparation(workdir: pathlib.Path, preparation: int) -> None:
    """Raises `InputError` where other volumes than now come from another version of their preparation."""
    before = read_json(workdir / DATA_FILE).get("preparation", 0)
    if before != preparation:
        said = f"version {before}" if before else "an earlier version"
        raise InputError(
            f"--workdir={workdir} was made with volumes prepared by {said} of the "
            f"preparation, and this eqpool has version {preparation}; name another --workdir and run again, or go on "
            "with the eqpool that began it"
        )


def is_of_other_data(folder: pathlib.Path, data_hash: str) -> bool:
    """Whether `folder` says that it was made from data of another hash; a folder that says nothing may be of any."""
    path = folder / DATA_FILE
    return path.exists() and read_json(path).get("data_hash") != data_hash


def _first_difference(before: list[str], now: list[str]) -> str:
    for line, (old, new) in enumerate(itertools.zip_longest(before, now, fillvalue="nothing"), start=1):
        if old != new:
            return f'pooled.tsv, line {line}: "{old}" then, "{new}" now'.replace("\t", " ")
    return "the same rows, but other features, images or nuisances"


def _has_computed(workdir: pathlib.Path) -> bool:
    return any((workdir / name).exists() for name in COMPUTED)


def append_to_log(workdir: pathlib.Path, text: str) -> None:
    """Adds a line to log.txt, unless it is there."""
    path = workdir / LOG_FILE
    before = path.read_text("utf-8") if path.exists() else ""
    if text not in before.splitlines():
        write_text(path, f"{before}{text}\n")


def cache_folder(config: RunConfig, workdir: pathlib.Path) -> pathlib.Path:
    """Where what several runs share is kept: `config.cache_dir`, or beside the work directory."""
    return to_path(config.cache_dir) if config.cache_dir else workdir.parent / "cache"


def _filled(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`config` with the keys that `defaults` alone has, group by group."""
    return defaults | {
        key: _filled(value, defaults[key]) if isinstance(value, dict) and isinstance(defaults.get(key), dict) else value
        for key, value in config.items()
    }


def _without_neutral(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_neutral(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in NEUTRAL_KEYS
    }


class MetricsLog:
    """metrics.jsonl: one object a logged step, with `stage` and `step`. A resumed run drops what it will redo."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def append(self, record: dict[str, Any]) -> None:
        """Adds one line.

        Raises:
          InputError: the disk is full; a line cut short is dropped by the run that goes on.
        """
        if is_left_to_another(self._path):
            return
        try:
            with open(self._path, "a") as handle:
                handle.write(json.dumps(record) + "\n")
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def drop_after(self, stage: str, epoch: int) -> None:
        """Removes the stage's records past `epoch`, and any line a kill has cut short."""
        if not self._path.exists():
            return
        kept = [r for r in self.records() if r["stage"] != stage or r["epoch"] <= epoch]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_text(self._path, text)

    def records(self) -> list[dict[str, Any]]:
        """All whole records, in order."""
        if not self._path.exists():
            return []
        records = []
        for line in self._path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records


class MemoryLog:
    """What `MetricsLog` keeps in a file, kept in `kept`, for a model that has no work directory."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def append(self, record: dict[str, Any]) -> None:
        """Adds one record."""
        self.kept.append(record)

    def drop_after(self, stage: str, epoch: int) -> None:
        """Removes the stage's records past `epoch`."""
        self.kept = [record for record in self.kept if record["stage"] != stage or record["epoch"] <= epoch]

    def records(self) -> list[dict[str, Any]]:
        """All records, in order."""
        return list(self.kept)
