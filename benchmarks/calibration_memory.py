"""Measures host memory and time while a small and a large cohort of volumes are calibrated and read once.

    python -m benchmarks.calibration_memory [mni_2mm]

A few made-up volumes are prepared as records, and every row of a cohort is one of them. `calibrate_volumes` learns the
effects of three sites from all rows, and one shuffled epoch is then read, with and without the calibration. Each size
runs in a process of its own. The peak memory should not grow with the number of rows.
"""

import dataclasses
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import nibabel
import numpy as np

from benchmarks.harness import about
from eqpool.config import DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.sources.volume_calibration import calibrate_volumes
from eqpool.data.volumes.batches import volume_batches
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.inputs import VolumeInputs
from eqpool.data.volumes.preparation import Preparation
from eqpool.data.volumes.prepare import prepare_volumes
from eqpool.data.volumes.records import RecordedVolumes

_SIZES, _IMAGES, _READ = (500, 5000), 24, 200


class Repeated:
    """Rows that are records of a few volumes, one after the other."""

    def __init__(self, volumes: RecordedVolumes, rows: int):
        """Takes the volumes and the number of rows."""
        self._volumes, self._rows = volumes, rows
        self.shape, self.dtype, self.ndim = (rows, *volumes.shape[1:]), volumes.dtype, volumes.ndim

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(self._rows))

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Returns one row or several; see `RecordedVolumes`."""
        return self._volumes[np.asarray(rows) % len(self._volumes)]


def write_cohort(folder: pathlib.Path, grid_name: str, rows: int) -> Cohort:
    """Prepares a few volumes in `folder` and returns a cohort of `rows` rows of three sites."""
    grid, random = named_grid(grid_name), np.random.default_rng(0)
    paths = [folder / f"image{number}.nii.gz" for number in range(_IMAGES)]
    for path in paths:
        values = np.where(grid.mask, random.uniform(10, 200, grid.shape), 0).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, grid.affine), path)
    prepared = prepare_volumes(paths, Preparation(grid), folder / "cache", progress=False)
    names = np.array([f"sub-{row}" for row in range(rows)])
    volumes = VolumeInputs(
        grid, names, "", names, np.ones(rows), np.resize(prepared.tissue_mean, rows),
        np.resize(prepared.tissue_deviation, rows),
    )  # fmt: skip
    return Cohort(
        name="repeated",
        simulated=False,
        participant_id=names,
        inputs=Repeated(prepared.inputs, rows),  # type: ignore[arg-type]
        site=np.resize(np.arange(3, dtype=np.int32), rows),
        site_names=("a", "b", "c"),
        covariates=random.uniform(50, 80, (rows, 1)),
        covariate_names=("age",),
        target=random.integers(0, 2, rows).astype(np.int32),
        target_name="dx",
        target_classes=("AD", "CN"),
        split=np.full(rows, "train"),
        volumes=volumes,
    )


def milliseconds_a_volume(cohort: Cohort) -> float:
    """Returns the milliseconds a volume of a shuffled epoch of some rows."""
    rows = np.arange(min(_READ, len(cohort.site)))
    started = time.perf_counter()
    for _ in volume_batches(cohort.inputs, rows, batch_size=8, shuffle=True):
        pass
    return 1e3 * (time.perf_counter() - started) / len(rows)


def measure(grid_name: str, rows: int) -> tuple[float, ...]:
    """Returns the peak memory in MB, the seconds of the fit, and milliseconds a volume read before and after it."""
    with tempfile.TemporaryDirectory() as name:
        cohort = write_cohort(pathlib.Path(name), grid_name, rows)
        milliseconds_a_volume(cohort)  # the loader's first start takes seconds
        before = milliseconds_a_volume(cohort)
        started = time.perf_counter()
        config = dataclasses.replace(DataConfig(), site_calibration="location_scale")
        calibrated = calibrate_volumes(cohort, config)
        fitted = time.perf_counter() - started
        after = milliseconds_a_volume(calibrated)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, fitted, before, after


def main() -> None:
    """Prints a line for each size, or measures the size given on the command line."""
    grid_name = sys.argv[1] if len(sys.argv) > 1 else "mni_2mm"
    if len(sys.argv) > 2:
        print(*measure(grid_name, int(sys.argv[2])))
        return
    print(about())
    for rows in _SIZES:
        command = [sys.executable, "-m", "benchmarks.calibration_memory", grid_name, str(rows)]
        measured = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        peak, fitted, before, after = map(float, measured)
        whole = rows * np.prod(named_grid(grid_name).shape) * 4 / 1e6
        print(
            f"{rows:5d} rows of {grid_name}: {peak:.0f} MB at most, all volumes are {whole:.0f} MB; fitted in "
            f"{fitted:.0f} s; a volume is read in {before:.1f} ms, calibrated in {after:.1f} ms"
        )


if __name__ == "__main__":
    main()
