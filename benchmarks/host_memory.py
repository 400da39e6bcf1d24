"""Host memory while a cohort is prepared and read through once, for a small and for a large one.

    python -m benchmarks.host_memory

A manifest of simulated subjects (12 volumes, with a hard link for each row) goes through `load_cohort`, which prepares
every row, and through one shuffled epoch of `volume_batches`. Each size runs in a process of its own, whose peak is
told; it should not grow by a volume's size (0.6 MB at 4 mm) a row.
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

SIZES, GRID, IMAGES = (500, 10_000), "mni_4mm", 12


def write_manifest(folder: pathlib.Path, rows: int) -> DataConfig:
    """participants.tsv of so many rows, each with an image file of its own name."""
    grid = named_grid(GRID)
    for number in range(IMAGES):
        values = np.where(grid.mask, np.random.default_rng(number).uniform(10, 200, grid.shape), 0)
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), grid.affine), folder / f"image{number}.nii.gz")
    lines = ["participant_id\tsite\tage\tdx\tpath"]
    for row in range(rows):
        (folder / f"{row}.nii.gz").hardlink_to(folder / f"image{row % IMAGES}.nii.gz")
        lines.append(f"sub-{row:05d}\t{'AB'[row % 2]}\t{50 + row % 40}\t{('AD', 'CN')[row // 2 % 2]}\t{row}.nii.gz")
    (folder / "participants.tsv").write_text("\n".join(lines))
    return DataConfig(participants=str(folder / "participants.tsv"), grid=GRID)


def peak(rows: int) -> tuple[float, float]:
    """Peak resident memory in MB: before, and after preparing and reading `rows` rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        config = write_manifest(folder, rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        cohort = load_cohort(config, folder / "cache")
        for _ in volume_batches(cohort.inputs, np.arange(rows), batch_size=8):
            pass
        return before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Prints a line for each size, or measures the one that is named."""
    if len(sys.argv) > 1:
        print(*peak(int(sys.argv[1])))
        return
    print(about())
    voxels = np.prod(named_grid(GRID).shape)
    for rows in SIZES:
        command = [sys.executable, "-m", "benchmarks.host_memory", str(rows)]
        before, after = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        whole = rows * voxels * 4 / 1e6
        print(f"{rows:6d} rows of {GRID}: {after:.0f} MB at most, {before:.0f} before; all volumes are {whole:.0f} MB")


if __name__ == "__main__":
    main()
