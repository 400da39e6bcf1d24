"""Prepares tensorflow_datasets builders in one process at a time."""

import contextlib
import io
import pathlib
import shutil

import tensorflow_datasets as tfds

from eqpool.storage.files import one_process


def prepare_once(builder: tfds.core.DatasetBuilder) -> None:
    """Prepares a data set in its folder, unless it is prepared already.

    tensorflow_datasets writes to a temporary folder and renames it, which fails in the second of two processes.
    Parallel runs of an experiment therefore wait for the one that prepares the data set.

    Raises:
      InputError: if the folder cannot be written.
    """
    folder = pathlib.Path(builder.data_dir)
    with one_process(folder):
        for left in folder.parent.glob(f"{folder.name}.incomplete*"):  # a killed process left it, as the lock is ours
            shutil.rmtree(left, ignore_errors=True)
        tfds.disable_progress_bar()  # the work takes seconds, or has a bar of its own
        with contextlib.redirect_stdout(io.StringIO()):  # it prints "Downloading" for a local copy too
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        if not builder.info.splits:  # another process prepared it after this builder was made
            builder.info.read_from_directory(builder.data_dir)
