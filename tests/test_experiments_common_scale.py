"""The raw intensities that the experiment reads are those of the files that a run writes."""

import nibabel
import numpy as np
import pytest

from eqpool.data.load import load_cohort
from eqpool.data.volumes.intensity_scale import CommonScale
from experiments import common_scale
from experiments.registry import EXPERIMENTS
from tests.common_scale import changed, rescaled
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return load_cohort(tiny_config(folder).data, folder / "cache", progress=False)


@pytest.mark.parametrize("scale", [None, CommonScale(1000.0, 200.0, 3)])
def test_files_are_written_on_the_scale_and_read_again(cohort, tmp_path, scale):
    mask = cohort.volumes.grid.mask
    changes = list(np.random.default_rng(0).normal(0, 0.1, (len(cohort.site), *mask.shape)).astype(np.float32))
    voxels, share = common_scale.written_voxels(cohort, changes, scale, tmp_path)
    for row in (0, 17):
        expected = changed(nibabel.load(cohort.volumes.image_path[row]).get_fdata(), mask, changes[row])
        if scale is not None:
            expected = rescaled(expected, mask, (1000.0, 200.0))
        np.testing.assert_allclose(voxels[row], np.maximum(expected, 0)[mask], rtol=1e-3, atol=0.1)
    assert 0 <= share < 0.01


def test_a_table_has_a_row_for_each_version_and_the_largest_clipping():
    splits = [{"input, common": {"tissue": 0.5, "components": 1.0, "set_to_0": share}} for share in (0.01, 0.02)]
    content = {"splits": [0, 1], "scores": {"adni": splits, "adcp": splits}}
    lines = common_scale.markdown(EXPERIMENTS["common_scale"], content).splitlines()
    assert lines[-1] == "| input, common | 0.500 (0.000) | 1.000 (0.000) | 0.500 (0.000) | 1.000 (0.000) | 2.0 |"
