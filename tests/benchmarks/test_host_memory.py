"""That the manifest of the memory benchmark is one that `load_cohort` takes."""

import numpy as np

from benchmarks.host_memory import write_manifest
from eqpool.data.load import load_cohort


def test_every_row_of_the_manifest_is_read(tmp_path):
    cohort = load_cohort(write_manifest(tmp_path, 40), tmp_path / "cache", progress=False)
    assert len(cohort.site) == 40 and np.isfinite(cohort.inputs[39]).all()
