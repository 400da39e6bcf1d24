"""A loader from NIfTI files to batches: a Dataset that reads with nibabel, and a DataLoader with two workers."""

import pathlib
import tempfile

import nibabel
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.inputs import Work
from benchmarks.nifti_files import write_files
from eqpool.data.volumes.grids import named_grid


class Volumes(Dataset):
    """Volumes that are z-scored inside the brain mask, and read again in every epoch."""

    def __init__(self, paths: list[pathlib.Path]):
        self._paths, self._mask = paths, named_grid("mni_2mm").mask

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        volume = np.asanyarray(nibabel.load(self._paths[index]).dataobj, dtype=np.float32)
        tissue = volume[self._mask & (volume != 0)]
        scaled = np.where(self._mask, (volume - tissue.mean()) / tissue.std(), 0)
        return torch.from_numpy(scaled.astype(np.float32))


def epochs(files: int, batch: int, first: bool) -> Work:
    """Returns the work of an epoch over `files` volumes at 2 mm. The first epoch costs the same as later ones."""
    del first
    paths = write_files(pathlib.Path(tempfile.mkdtemp()), files)
    loader = DataLoader(Volumes(paths), batch, shuffle=True, num_workers=2, persistent_workers=True)
    return Work(lambda: sum(float(one.sum()) for one in loader), steps=files)
