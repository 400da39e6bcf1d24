"""Checks the paths that a user gives before heavy imports, so that a typing error does not wait for jax."""

import pathlib

from eqpool.config import RunConfig
from eqpool.errors import InputError, to_path
from eqpool.storage.run_folder import RunFolder


def check_run(run: RunFolder, *needed: pathlib.Path, flag: str = "--workdir") -> None:
    """Raises `InputError` if a folder is not a run with the files `needed`, by default those of a finished run."""
    needed = needed or (run.config_file, run.results_file)
    if not run.path.is_dir():
        what = "a file" if run.path.exists() else "no such folder"
        names = ", ".join(path.name for path in needed)
        raise InputError(f"{flag}={run.path}: {what}; expected the folder of a finished run, with {names}")
    for path in needed:
        if not path.is_file():
            raise InputError(f"{flag}={run.path}: {path.name} not found; expected the folder of a finished run")


def check_file(path: pathlib.Path, given: str, expected: str) -> None:
    """Raises `InputError` if the file does not exist. `given` is the user's text, which starts the message."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{given}: {what}; expected {expected}{_nearest_folder(path)}")


def check_folder(path: pathlib.Path, given: str, expected: str) -> None:
    """Raises `InputError` if the folder does not exist."""
    if not path.is_dir():
        what = "a file" if path.exists() else "no such folder"
        raise InputError(f"{given}: {what}; expected {expected}{_nearest_folder(path)}")


def check_new_folder(path: pathlib.Path, given: str) -> None:
    """Raises `InputError` if the path is a file, or its parent folder does not exist."""
    place = path.resolve()  # `new/..` is the folder of `new`, even before `new` exists
    if place.exists() and not place.is_dir():
        raise InputError(f"{given}: a file; expected a folder, or the name of a new one")
    parent = place.parent
    if not place.exists() and not parent.is_dir():
        what = "is a file" if parent.exists() else "is not there"
        raise InputError(f"{given}: {parent} {what}; expected a folder to make it in{_nearest_folder(parent)}")


def check_config_paths(config: RunConfig) -> None:
    """Raises `InputError` for the first key of a config that names a missing path.

    Empty values, defaults that eqpool creates and paths in a table's rows are not checked.
    """
    data = config.data
    if data.participants:
        given = f'config.data.participants = "{data.participants}"'
        check_file(to_path(data.participants), given, "a participants.tsv or .csv")
    for key, text, expected in (
        ("data.root", data.root, "the folder that the images are in"),
        ("data.raw_dir", data.raw_dir, "the folder of the raw files"),
    ):
        if text:
            check_folder(to_path(text), f'config.{key} = "{text}"', expected)
    if config.cache_dir:
        check_new_folder(to_path(config.cache_dir), f'config.cache_dir = "{config.cache_dir}"')


def check_workdir(folder: pathlib.Path, given: str) -> None:
    """Raises `InputError` if the work directory or a folder above it is a file."""
    for place in (folder, *folder.parents):
        if place.is_dir():
            return
        if place.exists():
            raise InputError(f"{given}: {place} is a file; expected a folder, or the name of a new one")


def _nearest_folder(path: pathlib.Path) -> str:
    """Returns a hint with the longest existing part of a path, or "" if only its last part is missing."""
    absolute = path.absolute()
    there = next(place for place in absolute.parents if place.is_dir())
    first_absent = absolute.relative_to(there).parts[0]
    return "" if there == absolute.parent else f" ({there} is there, {first_absent} in it is not)"
