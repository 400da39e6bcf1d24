"""Brains of a simulated second scanner are scored against the scans that it never saw."""

import dataclasses

import nibabel
import numpy as np
import pytest

from eqpool.config import DataConfig
from eqpool.data.load import load_cohort
from eqpool.data.sources.rescanned import SITE, Scanner, rescan_cohort
from eqpool.data.volumes.read import prepare_volume
from eqpool.errors import InputError
from experiments import rescanned_volumes
from experiments.registry import EXPERIMENTS

SHAPE, PEOPLE = (24, 28, 24), 48
AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])
AFFINE[:3, 3] = -92, -126, -72
STRONG = Scanner(gamma=1.6, grey_shift=0.1, bias=0.2, coil_seed=3, blur_mm=3.0, noise=0.01, gain=300.0)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Ellipsoids with a middle whose size differs between people."""
    folder = tmp_path_factory.mktemp("originals")
    random = np.random.default_rng(0)
    offset = (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2).T
    radius = np.linalg.norm(offset / (np.array(SHAPE) / 2.4)[:, None, None, None], axis=0)
    rows = ["participant_id\tsite\tage\tsex"]
    for number in range(PEOPLE):
        middle = 0.6 + 0.02 * random.standard_normal()
        image = np.where(radius < middle, 200.0, 120.0) * random.normal(1, 0.02, SHAPE)
        path = folder / f"sub-{number}" / "anat" / f"sub-{number}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(np.where(radius < 1, image, 0).astype(np.float32), AFFINE), path)
        rows.append(f"sub-{number}\tGuys\t{30 + random.integers(40)}\t{'MF'[number % 2]}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder / "participants.tsv"


@pytest.fixture(scope="module")
def rescanned(originals, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rescanned")
    table = rescan_cohort(originals, folder / "out", scanner=STRONG, progress=False)
    config = DataConfig(
        dataset="adni", participants=str(table), target="sex", grid="24x28x24@8", site_calibration="none"
    )
    return load_cohort(config, folder / "cache", progress=False), config


def test_corrections_bring_brains_closer_to_their_own_scans(rescanned, originals):
    cohort, config = rescanned
    scores = rescanned_volumes.score_split(cohort, config, originals.parent)
    assert list(scores) == ["none", "combat", "location", "location_scale"]
    mask, test = cohort.volumes.grid.mask, cohort.rows("test")
    errors = []
    for row in test[cohort.site_labels[test] == SITE]:
        name = cohort.participant_id[row]
        own, _ = prepare_volume(originals.parent / name / "anat" / f"{name}_T1w.nii.gz", cohort.volumes.grid)
        errors.append(np.sqrt(np.mean((cohort.inputs[row] - own)[mask] ** 2)))
    assert scores["none"]["error"] == pytest.approx(np.mean(errors), rel=1e-5) and scores["none"]["improved"] == 0
    for kind in ("combat", "location", "location_scale"):
        assert scores[kind]["error"] < 0.8 * scores["none"]["error"] and scores[kind]["improved"] == 100
        assert scores[kind]["site"] <= scores["none"]["site"]


def test_a_cohort_that_was_not_rescanned_is_refused(rescanned, originals):
    cohort, config = rescanned
    other = dataclasses.replace(cohort, site_names=("Guys", "HH"))
    with pytest.raises(InputError, match="column site: expected simulated_scanner and one other, found Guys, HH"):
        rescanned_volumes.score_split(other, config, originals.parent)


def test_a_table_has_a_row_for_each_version():
    one = {"error": 0.5, "improved": 100.0, "site": 0.6, "covariate_mae": 5.0}
    content = {"scores": [{"none": one}, {"none": one | {"error": 0.7}}]}
    lines = rescanned_volumes.markdown(EXPERIMENTS["rescanned_volumes"], content).splitlines()
    assert lines[-1].startswith("| none | 0.600 (0.141) | 100.000 (0.000) | 0.600 (0.000) | 5.000 (0.000) |")
