"""Fetches the raw files of public data sets from a local copy or a download, and verifies them."""

import functools
import gzip
import hashlib
import pathlib
import zlib

import pooch

from eqpool.errors import InputError, to_path
from eqpool.storage.files import write_atomically

_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"  # a mirror of the original
_TIMEOUT_SECONDS = 30
URLS = {
    "adult.data": f"{_UCI}/adult/adult.data",
    "adult.test": f"{_UCI}/adult/adult.test",
    "german.data": f"{_UCI}/statlog/german/german.data",
    "train-images-idx3-ubyte.gz": f"{_MNIST}/train-images-idx3-ubyte.gz",
    "t10k-images-idx3-ubyte.gz": f"{_MNIST}/t10k-images-idx3-ubyte.gz",
}
# SHA-256 of the uncompressed content, which stays the same if a copy is compressed again.
CHECKSUMS = {
    "adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    "german.data": "b21f3d81db8071257d5ff1deaeba1fd4303b62712e6fcc9715c7a86202cb5871",
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
}


def raw_files(names: tuple[str, ...], raw_dir: str, download_dir: pathlib.Path) -> pathlib.Path:
    """Returns the folder that holds the raw files, after verifying every file.

    Args:
      names: keys of `URLS`.
      raw_dir: folder with a local copy, or "" to download the files on first use.
      download_dir: folder for downloads.

    Raises:
      InputError: if a file is missing or altered, or cannot be downloaded.
    """
    folder = to_path(raw_dir) if raw_dir else download_dir
    for name in names:
        if not raw_dir and not (folder / name).is_file():
            write_atomically(folder / name, functools.partial(_download, name))
        verify(folder / name, name)
    return folder


def verify(path: pathlib.Path, name: str) -> None:
    """Raises `InputError` unless the file at `path` has the content of the public file `name`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {_title(name)} ({URLS[name]})")
    found = hashlib.sha256(read_raw(path)).hexdigest()
    if found != CHECKSUMS[name]:
        uncompressed = " uncompressed" if path.suffix == ".gz" else ""
        raise InputError(
            f"{path}: SHA-256{uncompressed} is {found}, expected {CHECKSUMS[name]} ({_title(name)}, unaltered)"
        )


def read_raw(path: pathlib.Path) -> bytes:
    """Reads a raw file's content, decompressed if its name ends in .gz.

    Raises:
      InputError: if a .gz file is truncated or is not gzip.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: {error}; expected a whole gzip file") from error


def _title(name: str) -> str:
    return f"MNIST's {name}" if name.endswith("-ubyte.gz") else f"UCI's {name}"


def _download(name: str, partial: pathlib.Path) -> None:
    try:
        pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS)(URLS[name], str(partial), None)
        verify(partial, name)
    except OSError as error:  # the errors of requests are OSErrors
        raise InputError(
            f"{URLS[name]}: cannot be downloaded ({error}); put {name} into a folder and give config.data.raw_dir"
        ) from error
    except InputError as error:
        raise InputError(f"{URLS[name]}: the download is not what was expected: {error}") from error
