"""Prepared volumes in array_record files, readable as a tensorflow_datasets data set and row by row as an array.

A record holds one volume; a few records make a shard. The shards lie in a pool, each under a name that says what went
into it; a data set is a folder of links to them with tensorflow_datasets' description beside. So a cohort that grew, or
one of whose files changed, shares with its former self every shard that is still the same.
"""

import errno
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from eqpool.errors import InputError
from eqpool.storage.files import write_atomically

NAME, SPLIT, VERSION = "volumes", "train", "1.0.0"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
# One record a group, so that a row is read alone; compression of floats saves a tenth and costs more than reading.
_WRITER_OPTIONS = "group_size:1,uncompressed"


class RecordedVolumes:
    """K volumes as an array (K, *shape) float32 that reads a volume when it is asked for. Threads may share it."""

    def __init__(self, folder: pathlib.Path, order: np.ndarray, shape: tuple[int, ...]):
        """Of the data set in `folder`, whose record `order[row]` is the volume of a row.

        Raises:
          InputError: the folder, or later a record, is damaged.
        """
        self._folder, self._order = folder, order
        try:
            self._source = tfds.builder_from_directory(folder / VERSION).as_data_source(split=SPLIT)
        except Exception as error:  # JSON, protocol buffers and array_record each have their own
            raise self._damaged(error) from error
        self.shape = (len(order), *shape)
        self.dtype = np.dtype(np.float32)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, rows: Any) -> np.ndarray:
        """(*shape) for one row, (R, *shape) for several: a list, an array of numbers or bools, or a slice."""
        records = self._order[rows]
        if np.ndim(records) == 0:
            return self._read(int(records))
        volumes = np.empty((len(records), *self.shape[1:]), np.float32)
        for place, record in enumerate(records.tolist()):
            volumes[place] = self._read(record)
        return volumes

    def _read(self, record: int) -> np.ndarray:
        try:
            return self._source[record]["volume"]
        except Exception as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InputError:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return InputError(f"{self._folder}: damaged ({reason}); remove it and `shards` beside it")

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """All of them in memory."""
        return self[:].astype(dtype or np.float32, copy=False)


Inputs = np.ndarray | RecordedVolumes


def write_shard(path: pathlib.Path, volumes: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Writes volumes (*shape) float32 as the records of a shard, whole or not at all; they are taken one by one.

    Raises:
      InputError: the disk is full or the folder cannot be written.
    """
    features = _features(shape)

    def write(temporary: pathlib.Path) -> None:
        writer = ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
        try:
            for volume in volumes:
                writer.write(features.serialize_example({"volume": volume}))
        finally:
            _close(writer)

    write_atomically(path, write)


def link_dataset(
    folder: pathlib.Path, shards: Sequence[pathlib.Path], counts: Sequence[int], shape: tuple[int, ...]
) -> None:
    """Fills `folder` with the data set of some shards, of so many records each; copies where links are not possible."""
    folder = folder / VERSION
    folder.mkdir()
    template = tfds.core.ShardedFileTemplate(
        dataset_name=NAME, split=SPLIT, filetype_suffix="array_record", data_dir=folder
    )
    names = template.sharded_filepaths(num_shards=len(shards))
    for shard, name in zip(shards, names, strict=True):
        try:
            os.link(shard, name)
        except OSError:
            shutil.copy2(shard, name)
    split = tfds.core.SplitInfo(name=SPLIT, shard_lengths=list(counts), num_bytes=0, filename_template=template)
    # Its check of the data would need TensorFlow.
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=_features(shape), split_infos=[split], filename_template=_TEMPLATE, check_data=False
    )


def _features(shape: tuple[int, ...]) -> tfds.features.FeaturesDict:
    tensor = tfds.features.Tensor(shape=shape, dtype=np.float32, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict({"volume": tensor})


def _close(writer: ArrayRecordWriter) -> None:
    """Closes it; what could not be written is told only here, and not as the OSError that it is."""
    try:
        writer.close()
    except RuntimeError as error:
        raise OSError(errno.EIO, str(error).split(";")[0].removeprefix("write() failed: ")) from error
