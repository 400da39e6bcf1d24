"""Our loader from NIfTI files to batches on the device.

Volumes are prepared once into records, which grain's threads then read.
"""

import pathlib
import tempfile

import jax
import numpy as np

from benchmarks.inputs import Work
from benchmarks.nifti_files import write_files
from eqpool.data.volumes.batches import volume_batches
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.preparation import Preparation
from eqpool.data.volumes.prepare import prepare_volumes


def epochs(files: int, batch: int, first: bool) -> Work:
    """Returns the work of an epoch over `files` volumes at 2 mm. A `first` epoch includes their preparation."""
    from absl import flags

    flags.FLAGS(["benchmark"])  # grain reads absl flags
    folder = pathlib.Path(tempfile.mkdtemp())
    paths, preparation = write_files(folder, files), Preparation(named_grid("mni_2mm"))
    prepared = None if first else prepare_volumes(paths, preparation, folder / "cache", progress=False)
    number = iter(range(10**9))

    def run() -> float:
        store = prepared or prepare_volumes(paths, preparation, folder / f"cache{next(number)}", progress=False)
        total = 0.0
        for one in volume_batches(store.inputs, np.arange(files), batch_size=batch):
            total += float(jax.device_put(one["inputs"]).sum())
        return total

    return Work(run, steps=files)
