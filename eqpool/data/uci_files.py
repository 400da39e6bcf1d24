"""UCI's raw files: a local copy or a download, never unverified."""

import hashlib
import os
import pathlib
import shutil
import urllib.error
import urllib.request

from eqpool.errors import InputError

_SERVER = "https://archive.ics.uci.edu/ml/machine-learning-databases"
_TIMEOUT_SECONDS = 30
URLS = {
    "adult.data": f"{_SERVER}/adult/adult.data",
    "adult.test": f"{_SERVER}/adult/adult.test",
    "german.data": f"{_SERVER}/statlog/german/german.data",
}
CHECKSUMS = {  # SHA-256
    "adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    "german.data": "b21f3d81db8071257d5ff1deaeba1fd4303b62712e6fcc9715c7a86202cb5871",
}


def raw_files(names: tuple[str, ...], raw_dir: str, download_dir: pathlib.Path) -> pathlib.Path:
    """The folder that holds the raw files, every one verified.

    Args:
      names: keys of `URLS`.
      raw_dir: a local copy; empty: the files are downloaded into `download_dir` on first use.

    Raises:
      InputError: a file that is missing, altered or not to be downloaded.
    """
    folder = pathlib.Path(raw_dir).expanduser() if raw_dir else download_dir
    for name in names:
        if not raw_dir and not (folder / name).is_file():
            _download(name, folder / name)
        verify(folder / name, name)
    return folder


def verify(path: pathlib.Path, name: str) -> None:
    """Raises `InputError` unless the file at `path` has the SHA-256 of UCI's `name`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected UCI's {name} ({URLS[name]})")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != CHECKSUMS[name]:
        raise InputError(f"{path}: SHA-256 is {found}, expected {CHECKSUMS[name]} (UCI's {name}, unaltered)")


def _download(name: str, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{name}.{os.getpid()}.partial")
    try:
        with urllib.request.urlopen(URLS[name], timeout=_TIMEOUT_SECONDS) as response, partial.open("wb") as file:
            shutil.copyfileobj(response, file)
        verify(partial, name)
        partial.replace(path)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"{URLS[name]}: cannot be downloaded ({reason}); put {name} into a folder and give config.data.raw_dir"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
