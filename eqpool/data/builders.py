"""tensorflow_datasets builders, prepared by one process while others that want the same wait."""

import contextlib
import fcntl
import io
import pathlib
import shutil

import tensorflow_datasets as tfds


def prepare_once(builder: tfds.core.DatasetBuilder) -> None:
    """Prepares a data set in its folder, or finds it prepared.

    tensorflow_datasets writes to a temporary folder and renames it, which fails in the second of two processes: runs of
    an experiment side by side would meet there. The lock goes with the process, so that a killed one strands nobody.
    """
    folder = pathlib.Path(builder.data_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.parent.glob(f"{folder.name}.incomplete*"):  # by a killed process: this one holds the lock
            shutil.rmtree(left, ignore_errors=True)
        tfds.disable_progress_bar()  # seconds' work, or shown by a bar of our own
        with contextlib.redirect_stdout(io.StringIO()):  # it says "Downloading" of a local copy too
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        if not builder.info.splits:  # another process prepared it since this builder was made, and looked for it
            builder.info.read_from_directory(builder.data_dir)
