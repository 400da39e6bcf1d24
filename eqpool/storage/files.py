"""Writes files and folders that are complete or absent: no half-written file has a final name, however a run ends.

Every writer of eqpool uses this module. Data is on disk before it gets its final name (fsync, then rename, then fsync
of the folder), so that even a power cut does not leave an empty file.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from eqpool.errors import InputError

if TYPE_CHECKING:  # importing pandas takes half a second, and most functions here do not need it
    import pandas as pd

PART = ".part-"  # prefix of incomplete files and folders
_LONGEST_PART = 100  # bytes of a column's or class's name within a file name, which is limited to 255 bytes
_left_to_another: list[pathlib.Path] = []


def leave_to_another(folder: pathlib.Path) -> None:
    """Stops this process from writing in `folder`. With many hosts, another process writes the same results there."""
    _left_to_another.append(folder.absolute())


def file_name_part(name: str) -> str:
    """Returns the name of a column or class as part of a file name, unchanged if it is valid there.

    Slashes and control characters become underscores, and long names are cut. A digest then keeps different names
    distinct.
    """
    plain = re.sub(r"[/\\\x00-\x1f\x7f]", "_", name)
    if plain == name and len(name.encode()) <= _LONGEST_PART:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain.encode()[: _LONGEST_PART - 9].decode('utf-8', 'ignore')}-{digest}"


def is_left_to_another(path: pathlib.Path) -> bool:
    """Returns whether another process writes `path`."""
    return any(path.absolute().is_relative_to(folder) for folder in _left_to_another)


def write_atomically(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Lets `write` fill a temporary file beside `path`, and renames it to `path` once it is complete and on disk.

    Raises:
      InputError: the disk is full or the folder cannot be written. An existing `path` stays as it was.
    """
    if is_left_to_another(path):
        return
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=PART, suffix="".join(path.suffixes))
        os.close(descriptor)
        temporary = pathlib.Path(name)
        write(temporary)
        _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def making_folder(final: pathlib.Path) -> Iterator[pathlib.Path | None]:
    """Yields a new folder to fill, which becomes `final` if the block succeeds, or None if `final` exists.

    One process fills the folder while others that need it wait. Leftovers of a killed process are removed.

    Raises:
      InputError: the disk is full or the folder cannot be written. `final` is then absent.
    """
    if final.is_dir():
        yield None
        return
    partial = final.with_name(f"{PART}{final.name}")
    try:
        with one_process(final):
            shutil.rmtree(partial, ignore_errors=True)
            if final.is_dir():
                yield None
                return
            try:
                partial.mkdir()
                yield partial
                for path in partial.rglob("*"):
                    _sync(path)
                partial.replace(final)
                _sync(final.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise cannot_write(final, error) from error


@contextlib.contextmanager
def one_process(made: pathlib.Path) -> Iterator[None]:
    """Lets only one process at a time make `made`, through a lock file beside it. The others wait.

    Raises:
      InputError: the lock cannot be written.
    """
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(made.with_name(f".{made.name}.lock"), os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise cannot_write(made, error) from error
    with open(descriptor, "w") as file:
        _lock(file, made)  # the operating system releases it when the process ends
        yield


def _lock(file: TextIO, made: pathlib.Path) -> None:
    """Waits for a lock on `file` with a message. Raises `InputError` if the file system has no locks."""
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"eqpool: waiting for another run, which prepares {made}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise cannot_write(made, error) from error


def remove_parts(folder: pathlib.Path) -> None:
    """Removes half-written files of killed processes from `folder`. The caller must hold the folder's lock."""
    for path in folder.rglob(f"{PART}*"):
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def cannot_write(path: pathlib.Path, error: OSError) -> InputError:
    """Returns the one-line error for a full disk, a read-only folder or an exceeded quota."""
    return InputError(f"{path}: cannot be written ({error.strerror or error})")


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a complete JSON file or none. NaN raises ValueError, because JSON has none."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a complete UTF-8 text file or none."""

    def write(temporary: pathlib.Path) -> None:
        temporary.write_text(text, "utf-8")

    write_atomically(path, write)


def write_table(path: pathlib.Path, table: "pd.DataFrame", missing: str = "") -> None:
    """Writes a table as tab-separated values with a header, complete or not at all; `missing` stands for NaN."""
    write_atomically(path, lambda part: table.to_csv(part, sep="\t", index=False, na_rep=missing))


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a complete compressed npz or none, without pickle, so that an array of objects raises an error."""

    def write(temporary: pathlib.Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def allocate_array(path: pathlib.Path, shape: tuple[int, ...]) -> np.memmap:
    """Creates a .npy of float32 zeros as a writable memory map, with its disk space reserved.

    Raises:
      OSError: the disk is full. Without the reservation, a write into the map would end the process with a bus error.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads an npz without unpickling.

    Raises:
      InputError: names the file, if it is incomplete or holds objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: expected an npz file of plain arrays ({error})") from None


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      InputError: names the file, if it is not JSON or not an object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a JSON file ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: {type(content).__name__}, expected a JSON object")
    return content


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
