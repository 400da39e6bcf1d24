"""Finds the files of configs/: in the working directory, in a checkout, or beside an installed wheel."""

import importlib.metadata
import pathlib

_FOLDER = "configs"


def config_folder() -> pathlib.Path | None:
    """Returns the folder of the shipped configs, or None if there is none."""
    checkout = pathlib.Path(__file__).parents[2] / _FOLDER
    if checkout.is_dir():
        return checkout
    try:
        files = importlib.metadata.files("eqpool") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    installed = [pathlib.Path(str(file.locate())) for file in files if file.parts[-3:-1] == ("eqpool", _FOLDER)]
    return installed[0].resolve().parent if installed else None


def find_config(path: pathlib.Path) -> pathlib.Path:
    """Returns `path` if it is a file, otherwise the shipped config for configs/NAME.py, otherwise `path` itself."""
    folder = config_folder()
    if path.is_file() or path.parent != pathlib.Path(_FOLDER) or folder is None:
        return path
    return folder / path.name if (folder / path.name).is_file() else path
