"""Random NIfTI files on the 2 mm template grid, gzip-compressed as in BIDS."""

import pathlib

import nibabel
import numpy as np

from eqpool.data.volumes.grids import named_grid


def write_files(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Writes `count` int16 volumes of noise inside the brain mask, and returns their paths."""
    grid, paths = named_grid("mni_2mm"), []
    for index in range(count):
        noise = np.random.default_rng(index).integers(200, 1200, grid.shape).astype(np.int16)
        paths.append(folder / f"sub-{index:03d}_T1w.nii.gz")
        image = nibabel.Nifti1Image(np.where(grid.mask, noise, 0).astype(np.int16), grid.affine)
        image.set_sform(grid.affine, code="mni")
        nibabel.save(image, paths[-1])
    return paths
