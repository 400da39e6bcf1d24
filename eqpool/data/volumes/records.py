"""Prepared volumes in array_record files, readable as a tensorflow_datasets data set and row by row as an array.

A record holds one volume, and a few records make a shard. The shards lie in a pool, and the name of each is a hash of
the files and settings that it was made from. A data set is a folder of links to shards, with tensorflow_datasets'
description. A cohort that has grown, or in which a file has changed, therefore reuses every unchanged shard.
"""

import errno
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from eqpool.errors import InputError
from eqpool.storage.files import write_atomically

NAME, SPLIT, VERSION = "volumes", "train", "1.0.0"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
# One record a group, so that a row is read alone. Compression saves only a tenth and takes longer than the reading.
_WRITER_OPTIONS = "group_size:1,uncompressed"


class RecordedVolumes:
    """K volumes as an array (K, *shape) float32 that reads each volume when it is indexed. Threads may share it."""

    def __init__(self, folder: pathlib.Path, order: np.ndarray, shape: tuple[int, ...]):
        """Opens the data set in `folder`, in which record `order[row]` is the volume of a row.

        Raises:
          InputError: if the folder is damaged, or later if a record is.
        """
        import tensorflow_datasets as tfds  # takes half a second to import, and tables have no records

        self._folder, self._order = folder, order
        try:
            self._source = tfds.builder_from_directory(folder / VERSION).as_data_source(split=SPLIT)
        except Exception as error:  # JSON, protocol buffers and array_record each raise their own
            raise self._damaged(error) from error
        self.shape = (len(order), *shape)
        self.dtype = np.dtype(np.float32)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Returns (*shape) for one row, or (R, *shape) for a list, a slice, or an array of integers or bools."""
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
        """Reads all volumes into memory."""
        return self[:].astype(dtype or np.float32, copy=False)


def write_shard(path: pathlib.Path, volumes: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Writes volumes (*shape) float32 as the records of a shard, all or none. The volumes are consumed one by one.

    Raises:
      InputError: if the disk is full or the folder cannot be written.
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
    """Fills `folder` with a data set of shards that hold `counts` records each. Shards are copied if links fail."""
    import tensorflow_datasets as tfds

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
    # Checking the data would need TensorFlow.
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=_features(shape), split_infos=[split], filename_template=_TEMPLATE, check_data=False
    )


def _features(shape: tuple[int, ...]) -> Any:
    import tensorflow_datasets as tfds

    tensor = tfds.features.Tensor(shape=shape, dtype=np.float32, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict({"volume": tensor})


def _close(writer: ArrayRecordWriter) -> None:
    """Closes a writer. Failed writes surface only here, as `RuntimeError`, and are raised as `OSError`."""
    try:
        writer.close()
    except RuntimeError as error:
        raise OSError(errno.EIO, str(error).split(";")[0].removeprefix("write() failed: ")) from error
