"""Measures host memory while a small and a large cohort are prepared and read once.

    python -m benchmarks.host_memory

`load_cohort` prepares every row of a manifest of simulated subjects (12 volumes, with a hard link for each row). Then
`volume_batches` reads one shuffled epoch. Each size runs in a process of its own, and the peak memory of the process is
reported. The peak should not grow by the size of a volume (0.6 MB at 4 mm) per row.
"""

import pathlib
import resource
import subprocess
import sys
import tempfile

import nibabel
import numpy as np

from benchmarks.harness import about
from eqpool.config import DataConfig
from eqpool.data.load import load_cohort
from eqpool.data.volumes.batches import volume_batches
from eqpool.data.volumes.grids import named_grid

_SIZES, _GRID, _IMAGES = (500, 10_000), "mni_4mm", 12


def write_manifest(folder: pathlib.Path, rows: int) -> DataConfig:
    """Writes participants.tsv with `rows` rows, and an image file for each of them."""
    grid = named_grid(_GRID)
    for number in range(_IMAGES):
        values = np.where(grid.mask, np.random.default_rng(number).uniform(10, 200, grid.shape), 0)
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), grid.affine), folder / f"image{number}.nii.gz")
    lines = ["participant_id\tsite\tage\tdx\tpath"]
    for row in range(rows):
        (folder / f"{row}.nii.gz").hardlink_to(folder / f"image{row % _IMAGES}.nii.gz")
        lines.append(f"sub-{row:05d}\t{'AB'[row % 2]}\t{50 + row % 40}\t{('AD', 'CN')[row // 2 % 2]}\t{row}.nii.gz")
    (folder / "participants.tsv").write_text("\n".join(lines))
    return DataConfig(participants=str(folder / "participants.tsv"), grid=_GRID)


def peak(rows: int) -> tuple[float, float]:
    """Returns the peak resident memory in MB before and after preparing and reading `rows` rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        config = write_manifest(folder, rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        cohort = load_cohort(config, folder / "cache")
        for _ in volume_batches(cohort.inputs, np.arange(rows), batch_size=8):
            pass
        return before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Prints a line for each size, or measures the size given on the command line."""
    if len(sys.argv) > 1:
        print(*peak(int(sys.argv[1])))
        return
    print(about())
    voxels = np.prod(named_grid(_GRID).shape)
    for rows in _SIZES:
        command = [sys.executable, "-m", "benchmarks.host_memory", str(rows)]
        before, after = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        whole = rows * voxels * 4 / 1e6
        print(f"{rows:6d} rows of {_GRID}: {after:.0f} MB at most, {before:.0f} before; all volumes are {whole:.0f} MB")


if __name__ == "__main__":
    main()
