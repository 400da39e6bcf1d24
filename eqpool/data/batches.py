"""Batches of volumes for training: a grain pipeline over records or a memory map, with static shapes."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from eqpool.data.records import Inputs

PADDING = -1  # a slot of a batch without a row


class _Example(NamedTuple):
    row: int
    volume: np.ndarray | None


class _Slots:
    """Random access to the slots of an epoch, the volume of each read as a whole when asked for."""

    def __init__(self, inputs: Inputs, slots: np.ndarray):
        self._inputs = inputs
        self._slots = slots

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, position: int) -> _Example:
        row = int(self._slots[position])
        return _Example(row, None if row == PADDING else np.array(self._inputs[row], dtype=np.float32))


def volume_batches(
    inputs: Inputs,
    rows: np.ndarray,
    *,
    batch_size: int,
    padded_size: int | None = None,
    part: slice = slice(None),
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    start: int = 0,
    columns: Mapping[str, np.ndarray] | None = None,
    threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """One epoch over some rows of a cohort.

    The order is a pure function of (rows, seed, epoch), so that a run which stopped after `start` batches goes on as
    if it had not, and hosts that read different parts agree on it. Rows are read ahead by threads, and only those of
    the part. The iterator is grain's: it also has `get_state` and `set_state`.

    Args:
      inputs: (N, ...) float32, usually `RecordedVolumes`.
      rows: (R,) row indices, such as `cohort.rows("train")`.
      batch_size: rows in a batch; the last one may have fewer.
      padded_size: P, slots in a batch; by default `batch_size`.
      part: which slots of each batch are read here; by default all.
      seed, epoch: choose the order.
      shuffle: False keeps the order of `rows`.
      start: how many batches to leave out at the beginning.
      columns: name to (N, ...) array; each batch holds the same rows of them.
      threads: that read ahead.

    Yields:
      `index` (P,) int32, row numbers in `inputs`; `inputs` (P, ...) float32; `mask` (P,) float32; and the `columns`,
      or the part's slots of them. Slots without a row have mask 0, index 0, and inputs and columns all 0.
    """
    import grain  # loads JAX, which reading tables and volumes has no use for

    order = np.asarray(rows)
    if shuffle:
        drawn = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        positions = grain.MapDataset.range(len(order)).shuffle(seed=drawn)
        order = order[[positions[place] for place in range(len(order))]]
    slots = _slots(order, batch_size, padded_size or batch_size)[start:, part]
    gathered = dict(columns or {})

    def collate(examples: list[_Example]) -> dict[str, np.ndarray]:
        return _batch(examples, inputs.shape[1:], gathered)

    batches = grain.MapDataset.source(_Slots(inputs, slots.ravel())).batch(max(1, slots.shape[1]), batch_fn=collate)
    # One batch a thread: 256 volumes at 2 mm are 0.9 GB already.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return iter(batches.to_iter_dataset(options))


def count_batches(rows: np.ndarray, batch_size: int) -> int:
    """How many batches an epoch over these rows has."""
    return -(-len(rows) // batch_size)


def _slots(order: np.ndarray, batch_size: int, padded_size: int) -> np.ndarray:
    """(batches, padded_size) rows of `order`, `batch_size` to a batch, PADDING elsewhere."""
    count = count_batches(order, batch_size)
    full = np.pad(order, (0, count * batch_size - len(order)), constant_values=PADDING).reshape(count, batch_size)
    return np.pad(full, ((0, 0), (0, padded_size - batch_size)), constant_values=PADDING)


def _batch(examples: list[_Example], shape: tuple[int, ...], columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    size = len(examples)
    row = np.array([example.row for example in examples], np.int32)
    valid = row != PADDING
    inputs = np.zeros((size, *shape), np.float32)
    for slot in np.flatnonzero(valid):
        inputs[slot] = examples[slot].volume
    batch = {"index": np.where(valid, row, 0), "inputs": inputs, "mask": valid.astype(np.float32)}
    for name, values in columns.items():
        batch[name] = np.zeros((size, *values.shape[1:]), values.dtype)
        batch[name][valid] = values[row[valid]]
    return batch
