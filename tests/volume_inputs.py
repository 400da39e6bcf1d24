"""Volume inputs of a made-up cohort, whose images need not exist."""

import pathlib

import numpy as np

from eqpool.data.volumes.inputs import Grid, VolumeInputs


def volume_inputs(grid: Grid, rows: int, folder: pathlib.Path = pathlib.Path()) -> VolumeInputs:
    """Returns the part of a cohort for `rows` volumes named sub-0, sub-1, ... in `folder`."""
    names = [f"sub-{row}" for row in range(rows)]
    return VolumeInputs(
        grid=grid,
        image_path=np.array([str(folder / f"{name}.nii.gz") for name in names]),
        image_root=str(folder),
        scan_name=np.array([f"{name}/anat/{name}" for name in names]),
        mask_overlap=np.full(rows, 0.9),
        tissue_mean=np.full(rows, 100.0),
        tissue_deviation=np.full(rows, 20.0),
    )
