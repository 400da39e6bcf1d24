"""How rows are cut into batches, for every training loop; and batches of volumes, read ahead by grain's threads."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from eqpool.data.volumes.records import Inputs

PADDING = -1  # a slot of a batch without a row
FEWEST_ROWS = 4  # of a training step: batch statistics and distances between sites of fewer rows are noise


def batch_sizes(count: int, batch_size: int) -> tuple[int, ...]:
    """Computes how many rows each batch of an epoch has: the same number, or one fewer.

    The remainder of `count / batch_size` is spread: 81 rows in batches of 16 are six batches, three of 14 rows and
    three of 13, and not five of 16 and one of a single row. Every batch has at least min(4, batch_size, count) rows.
    Only a `batch_size` below 7 can be too small for that, and then one batch fewer holds the same rows: 81 rows in
    batches of 4 are 20 batches, one of 5 rows and nineteen of 4.

    Args:
      count: rows of an epoch.
      batch_size: rows that are asked for.

    Returns:
      The sizes, larger ones first; they sum to `count`. Empty where `count` is 0.

    Raises:
      ValueError: `count` is negative, or `batch_size` is not positive.
    """
    if count < 0 or batch_size < 1:
        raise ValueError(f"count is {count} and batch_size {batch_size}, expected at least 0 and 1")
    if count == 0:
        return ()
    batches = min(-(-count // batch_size), count // min(FEWEST_ROWS, batch_size, count))
    smaller, larger_ones = divmod(count, batches)
    return (smaller + 1,) * larger_ones + (smaller,) * (batches - larger_ones)


def batch_slots(count: int, batch_size: int) -> int:
    """Returns how many slots a batch needs, so that all batches of an epoch have one shape: at least `batch_size`."""
    return max(batch_size, *batch_sizes(count, batch_size), 0)


def epoch_layout(count: int, batch_size: int, slots: int) -> np.ndarray:
    """Returns the place in an epoch's order of the row in every slot, and `PADDING` where a slot has none.

    Args:
      count: rows of the epoch.
      batch_size: rows that are asked for, see `batch_sizes`.
      slots: of a batch, at least `batch_slots(count, batch_size)`.

    Returns:
      (batches, slots) int32; each of the places 0 to count - 1 is there once.

    Raises:
      ValueError: too few slots, or as `batch_sizes`.
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
      batch_size: rows in a batch; where it does not divide R, as `batch_sizes` says.
      padded_size: P, slots in a batch; by default as many as `batch_slots` says.
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
    layout = epoch_layout(len(order), batch_size, padded_size or batch_slots(len(order), batch_size))
    slots = np.where(layout == PADDING, PADDING, order[layout])[start:, part]
    gathered = dict(columns or {})

    def collate(examples: list[_Example]) -> dict[str, np.ndarray]:
        return _batch(examples, inputs.shape[1:], gathered)

    batches = grain.MapDataset.source(_Slots(inputs, slots.ravel())).batch(max(1, slots.shape[1]), batch_fn=collate)
    # One batch a thread: 256 volumes at 2 mm are 0.9 GB already.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return iter(batches.to_iter_dataset(options))


def count_batches(rows: np.ndarray, batch_size: int) -> int:
    """Returns how many batches an epoch over these rows has."""
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
