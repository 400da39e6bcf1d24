"""Divides rows into batches for every training loop, and reads batches of volumes ahead in grain's threads."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from eqpool.data.volumes.calibrated import Inputs

PADDING = -1  # marks a slot of a batch that has no row
FEWEST_ROWS = 4  # in a training step. With fewer, batch statistics and distances between sites are noise


def batch_sizes(count: int, batch_size: int) -> tuple[int, ...]:
    """Computes the number of rows in each batch of an epoch. Batches differ by at most one row.

    The remainder of `count / batch_size` is spread over the batches. For example, 81 rows in batches of 16 make three
    batches of 14 rows and three of 13, instead of five of 16 and one of a single row. Every batch has at least min(4,
    batch_size, count) rows. Only if `batch_size` is below 7 may one batch fewer be needed for that: 81 rows in batches
    of 4 make 20 batches, one of 5 rows and nineteen of 4.

    Args:
      count: number of rows in an epoch.
      batch_size: requested number of rows in a batch.

    Returns:
      The sizes, larger ones first. They sum to `count`, and are empty if `count` is 0.

    Raises:
      ValueError: if `count` is negative, or `batch_size` is not positive.
    """
    if count < 0 or batch_size < 1:
        raise ValueError(f"count is {count} and batch_size {batch_size}, expected at least 0 and 1")
    if count == 0:
        return ()
    batches = min(-(-count // batch_size), count // min(FEWEST_ROWS, batch_size, count))
    smaller, larger_ones = divmod(count, batches)
    return (smaller + 1,) * larger_ones + (smaller,) * (batches - larger_ones)


def batch_slots(count: int, batch_size: int) -> int:
    """Returns the number of slots, at least `batch_size`, with which all batches of an epoch have one shape."""
    return max(batch_size, *batch_sizes(count, batch_size), 0)


def epoch_layout(count: int, batch_size: int, slots: int) -> np.ndarray:
    """Returns each slot's position in the epoch's order of rows, and `PADDING` for a slot without a row.

    Args:
      count: number of rows in the epoch.
      batch_size: requested number of rows in a batch, see `batch_sizes`.
      slots: number of slots in a batch, at least `batch_slots(count, batch_size)`.

    Returns:
      (batches, slots) int32. Each position from 0 to count - 1 occurs once.

    Raises:
      ValueError: if there are too few slots, or `batch_sizes` raises it.
    """
    sizes = np.array(batch_sizes(count, batch_size), np.int32)
    if slots < sizes.max(initial=0):
        raise ValueError(f"{slots} slots for batches of {sizes.max()} rows")
    first = np.cumsum(sizes) - sizes
    slot = np.arange(slots)
    return np.where(slot < sizes[:, None], first[:, None] + slot, PADDING).astype(np.int32)


class _Example(NamedTuple):
    row: int
    volume: np.ndarray | None


class _Slots:
    """Random access to the slots of an epoch. A slot's volume is read as a whole when the slot is indexed."""

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
    """Iterates over batches of some rows of a cohort for one epoch.

    The order is a pure function of (rows, seed, epoch). A run that stopped after `start` batches therefore continues as
    if it had not stopped, and hosts that read different parts agree on the order. Threads read rows ahead, and only
    rows of the part. The iterator is grain's, so it also has `get_state` and `set_state`.

    Args:
      inputs: (N, ...) float32, usually `RecordedVolumes`.
      rows: (R,) row indices, such as `cohort.rows("train")`.
      batch_size: number of rows in a batch. If it does not divide R, `batch_sizes` gives the sizes.
      padded_size: number P of slots in a batch, by default that of `batch_slots`.
      part: slots of each batch that are read here, by default all.
      seed, epoch: seeds of the order.
      shuffle: whether to shuffle. False keeps the order of `rows`.
      start: number of batches to skip at the beginning.
      columns: (N, ...) arrays by name. Each batch holds the same rows of them.
      threads: number of threads that read ahead.

    Yields:
      `index` (P,) int32, row numbers in `inputs`; `inputs` (P, ...) float32; `mask` (P,) float32; and the `columns`.
      Only the part's slots are included. Slots without a row have mask 0, index 0, and zeros in inputs and columns.
    """
    import grain  # loads JAX, which reading tables and volumes does not need

    order = np.asarray(rows)
    if shuffle:
        drawn = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        positions = grain.MapDataset.range(len(order)).shuffle(seed=drawn)
        order = order[[positions[place] for place in range(len(order))]]
    layout = epoch_layout(len(order), batch_size, padded_size or batch_slots(len(order), batch_size))
    slots = np.where(layout == PADDING, PADDING, order[layout])[start:, part]
    gathered = dict(columns or {})

    def collate(examples: list[_Example]) -> dict[str, np.ndarray]:
        return _batch(examples, inputs.shape[1:], gathered)

    batches = grain.MapDataset.source(_Slots(inputs, slots.ravel())).batch(max(1, slots.shape[1]), batch_fn=collate)
    # One batch a thread, since 256 volumes at 2 mm already take 0.9 GB.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return iter(batches.to_iter_dataset(options))


def count_batches(rows: np.ndarray, batch_size: int) -> int:
    """Returns the number of batches in an epoch over these rows."""
    return len(batch_sizes(len(rows), batch_size))


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
