"""Reads the voxels of volumes a few volumes at a time, for estimates that stream them."""

from collections.abc import Callable, Iterator

import numpy as np

from eqpool.storage.progress import track

_CHUNK = 16  # volumes in memory at once


def voxel_chunks(
    read: Callable[[int], np.ndarray], rows: np.ndarray, mask: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (rows (n,), values (n, V)) of a few volumes at a time, inside a mask with V True voxels.

    `read` returns the volume of a row.
    """
    for start in track(range(0, len(rows), _CHUNK), "Estimating site effects", unit="chunk"):
        here = rows[start : start + _CHUNK]
        yield here, np.stack([read(row)[mask] for row in here])
