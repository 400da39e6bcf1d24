"""The work directory: who may write it, what it was made with, and files that are whole or absent."""

import contextlib
import fcntl
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from eqpool.config import RunConfig, differing_keys, to_dict
from eqpool.errors import InputError

# Keys that change where or how often, but not what is computed.
NEUTRAL_KEYS = ("cache_dir", "checkpoint_every_epochs", "devices")


class _Role:
    """Of this process among those of a run; `follows` where another one writes what it computes too."""

    follows = False


def follow() -> None:
    """From now on this process leaves all writing to another one, which computes the same (`eqpool.parallel`)."""
    _Role.follows = True


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the work directory for this process; the operating system lets go of it however the process ends.

    Raises:
      InputError: if another run holds it, or if it cannot be written.
    """
    if _Role.follows:
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
        yield


def claim(workdir: pathlib.Path, config: RunConfig) -> None:
    """Writes config.json, or checks that the one there says the same.

    Raises:
      InputError: naming every key that differs.
    """
    path = workdir / "config.json"
    now = to_dict(config)
    if not path.exists():
        write_json(path, now)
        return
    before = read_json(path)
    differing = list(differing_keys(_without_neutral(before), _without_neutral(now)))
    if differing:
        raise InputError(f"--workdir={workdir} was made with another config: {'; '.join(differing)}")


def cache_folder(config: RunConfig, workdir: pathlib.Path) -> pathlib.Path:
    """Where what several runs share is kept: `config.cache_dir`, or beside the work directory."""
    return pathlib.Path(config.cache_dir) if config.cache_dir else workdir.parent / "cache"


def _without_neutral(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_neutral(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in NEUTRAL_KEYS
    }


def write_atomically(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Lets `write` fill a temporary file beside `path` and gives it its name once it is whole and on disk."""
    if _Role.follows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix="".join(path.suffixes))
    os.close(descriptor)
    temporary = pathlib.Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON, whole or not at all. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all."""

    def write(temporary: pathlib.Path) -> None:
        temporary.write_text(text)

    write_atomically(path, write)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed npz, whole or not at all, without pickle: an array of objects is refused."""

    def write(temporary: pathlib.Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads an npz, without pickle.

    Raises:
      InputError: naming the file, if it is not one that `write_arrays` made.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected an npz file of plain arrays ({error})") from None


def read_json(path: pathlib.Path) -> Any:
    """Reads JSON.

    Raises:
      InputError: naming the file, if it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a JSON file ({error})") from None


class MetricsLog:
    """metrics.jsonl: one object a logged step, with `stage` and `step`. A resumed run drops what it will redo."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def append(self, record: dict[str, Any]) -> None:
        """Adds one line."""
        if _Role.follows:
            return
        with open(self._path, "a") as handle:
            handle.write(json.dumps(record) + "\n")

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
