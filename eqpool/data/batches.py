"""Batches of volumes for training: a grain pipeline over a memory map, with static shapes."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


class _Rows:
    """Random access to some rows of a memory map, each read as a whole when asked for."""

    def __init__(self, inputs: np.ndarray, rows: np.ndarray):
        self._inputs = inputs
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> dict[str, Any]:
        row = int(self._rows[position])
        return {"index": np.int32(row), "inputs": np.array(self._inputs[row], dtype=np.float32)}


def volume_batches(
    inputs: np.ndarray,
    rows: np.ndarray,
    *,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    start: int = 0,
    columns: Mapping[str, np.ndarray] | None = None,
    threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """One epoch over some rows of a cohort.

    The order is a pure function of (rows, seed, epoch), so that a run which stopped after `start` batches goes on as
    if it had not. Rows are read ahead by threads. The iterator is grain's: it also has `get_state` and `set_state`.

    Args:
      inputs: (N, ...) float32, usually a memory map.
      rows: (R,) row indices, such as `cohort.rows("train")`.
      batch_size: B.
      seed, epoch: choose the order.
      shuffle: False keeps the order of `rows`.
      start: how many batches to leave out at the beginning.
      columns: name to (N, ...) array; each batch holds the same rows of them.
      threads: that read ahead.

    Yields:
      `index` (B,) int32, row numbers in `inputs`; `inputs` (B, ...) float32; `mask` (B,) float32; and the `columns`.
      The last batch is filled up to B rows with mask 0: index 0, inputs and columns all 0.
    """
    import grain  # loads JAX, which reading tables and volumes has no use for

    dataset = grain.MapDataset.source(_Rows(inputs, np.asarray(rows)))
    if shuffle:
        dataset = dataset.shuffle(seed=int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
    gathered = dict(columns or {})

    def collate(examples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        return _batch(examples, batch_size, gathered)

    batches = dataset.batch(batch_size, drop_remainder=False, batch_fn=collate)[start:]
    # One batch a thread: 256 volumes at 2 mm are 0.9 GB already.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return iter(batches.to_iter_dataset(options))


def count_batches(rows: np.ndarray, batch_size: int) -> int:
    """How many batches an epoch over these rows has."""
    return -(-len(rows) // batch_size)


def _batch(examples: list[dict[str, Any]], batch_size: int, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = len(examples)
    inputs = np.zeros((batch_size, *examples[0]["inputs"].shape), np.float32)
    for position, example in enumerate(examples):
        inputs[position] = example["inputs"]
    index = np.zeros(batch_size, np.int32)
    index[:count] = [example["index"] for example in examples]
    mask = np.zeros(batch_size, np.float32)
    mask[:count] = 1
    batch = {"index": index, "inputs": inputs, "mask": mask}
    for name, values in columns.items():
        batch[name] = np.zeros((batch_size, *values.shape[1:]), values.dtype)
        batch[name][:count] = values[index[:count]]
    return batch
