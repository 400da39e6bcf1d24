"""Where the files of configs/ are: in the working directory, in a checkout, or beside an installed wheel."""

import importlib.metadata
import pathlib

_FOLDER = "configs"


def config_folder() -> pathlib.Path | None:
    """The folder of the configs that came with eqpool; None where there is none."""
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
    """`path` where it is a file; else, of configs/NAME.py, the one that came with eqpool; else `path` itself."""
    folder = config_folder()
    if path.is_file() or path.parent != pathlib.Path(_FOLDER) or folder is None:
        return path
    return folder / path.name if (folder / path.name).is_file() else path
