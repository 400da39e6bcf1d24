"""The truth of simulated volumes lies where their scans were laid."""

import dataclasses
import pathlib

import nibabel
import numpy as np
import pytest

from eqpool.data.load import load_cohort
from eqpool.data.sources.simulated import scanner_free_path
from eqpool.methods.scored_voxels import scanner_free_brain, scanner_free_volume
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    return load_cohort(tiny_config(folder).data, folder / "cache", progress=False)


def z_scores(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    tissue = image[mask & (image != 0)].astype(np.float64)
    return np.where(mask, (image - tissue.mean()) / tissue.std(), 0)


@pytest.mark.parametrize("voxels", [None, 0, 2])
def test_the_truth_is_moved_by_the_alignment_of_its_scan(cohort, voxels):
    grid, row = cohort.volumes.grid, 3
    if voxels is not None:
        alignment = np.tile(np.eye(4), (len(cohort.site), 1, 1))
        alignment[row, 0, 3] = voxels * grid.affine[0, 0]
        cohort = dataclasses.replace(cohort, volumes=dataclasses.replace(cohort.volumes, alignment=alignment))
    path = scanner_free_path(pathlib.Path(cohort.volumes.image_path[row]))
    moved = np.roll(nibabel.load(path).get_fdata(dtype=np.float32), voxels or 0, axis=0)
    expected = z_scores(moved, grid.mask)
    np.testing.assert_allclose(scanner_free_volume(cohort, row), expected, atol=1e-4)
    np.testing.assert_array_equal(scanner_free_brain(cohort, row), scanner_free_volume(cohort, row)[grid.mask])


def test_measured_volumes_have_no_truth(cohort):
    assert scanner_free_volume(dataclasses.replace(cohort, simulated=False), 0) is None
