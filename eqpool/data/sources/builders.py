"""tensorflow_datasets builders, prepared by one process while others that want the same wait."""

import contextlib
import io
import pathlib
import shutil

import tensorflow_datasets as tfds

from eqpool.storage.files import one_process


def prepare_once(builder: tfds.core.DatasetBuilder) -> None:
    """Prepares a data set in its folder, or finds it prepared.

    tensorflow_datasets writes to a temporary folder and renames it, which fails in the second of two processes: runs of
    an experiment side by side would meet there.

    Raises:
      InputError: the folder cannot be written.
    """
    folder = pathlib.Path(builder.data_dir)
    with one_process(folder):
        for left in folder.parent.glob(f"{folder.name}.incomplete*"):  # by a killed process: this one holds the lock
            shutil.rmtree(left, ignore_errors=True)
        tfds.disable_progress_bar()  # seconds' work, or shown by a bar of our own
        with contextlib.redirect_stdout(io.StringIO()):  # it says "Downloading" of a local copy too
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        if not builder.info.splits:  # another process prepared it since this builder was made, and looked for it
            builder.info.read_from_directory(builder.data_dir)
