"""The common intensity scale of written volumes: gains disappear, the units of a scan are kept by request."""

import json
import pathlib

import nibabel
import numpy as np
import pytest

from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.image_files import read_volume
from eqpool.data.volumes.inputs import ImageFacts
from eqpool.data.volumes.intensity_scale import CommonScale
from eqpool.data.volumes.read import prepare_image
from eqpool.errors import InputError
from eqpool.methods.derivatives import Source, read_source, write_change, write_decoded, write_description
from eqpool.methods.facts import ModelFacts
from eqpool.storage.run_folder import RunFolder
from tests.common_scale import changed, rescaled, tissue_of
from tests.volume_inputs import volume_inputs

GRID = named_grid("24x28x24")
SCALE_NUMBERS = (1000.0, 200.0)
SCALE = CommonScale(*SCALE_NUMBERS, 7)
CHANGE = np.random.default_rng(9).normal(0, 0.3, GRID.shape).astype(np.float32)  # also where it must not count


def brain(seed: int = 0) -> np.ndarray:
    return np.where(GRID.mask, np.random.default_rng(seed).gamma(16, 12, GRID.shape) + 1, 0).astype(np.float32)


def save(path: pathlib.Path, values: np.ndarray) -> Source:
    """Writes an image and returns it as a source."""
    nibabel.save(nibabel.Nifti1Image(values, GRID.affine), path)
    return as_source(path)


def as_source(path: pathlib.Path) -> Source:
    """Returns an image as a source, with the facts that its preparation finds."""
    tissue = prepare_image(read_volume(path), path, GRID).tissue
    return read_source(path, ImageFacts(tissue.mean, tissue.deviation))


def written(source: Source, path: pathlib.Path, writer=write_change, **options) -> np.ndarray:
    writer(source, CHANGE, GRID, path, **options)
    return nibabel.load(path).get_fdata()


def sidecar(path: pathlib.Path) -> dict:
    return json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())


@pytest.mark.parametrize("writer", [write_change, write_decoded])
@pytest.mark.parametrize(("gain", "offset"), [(2.75, 0), (0.01, 0), (1.4, 60), (4000, -3)])
def test_a_scan_in_two_gains_becomes_one_volume(tmp_path, writer, gain, offset):
    values = brain()
    plain = save(tmp_path / "plain.nii.gz", values)
    loud = save(tmp_path / "loud.nii.gz", np.where(values != 0, gain * values + offset, 0).astype(np.float32))
    once, twice = (written(one, tmp_path / "out.nii.gz", writer, scale=SCALE) for one in (plain, loud))
    np.testing.assert_allclose(twice, once, rtol=1e-4, atol=1e-2)
    expected = changed(values, GRID.mask, CHANGE) if writer is write_change else np.where(GRID.mask, CHANGE, 0)
    np.testing.assert_allclose(once, rescaled(expected, GRID.mask, SCALE_NUMBERS), rtol=1e-4, atol=1e-2)
    assert tissue_of(once, GRID.mask) == pytest.approx(SCALE_NUMBERS)
    as_scanned = [written(one, tmp_path / "out.nii.gz", writer)[GRID.mask].std() for one in (plain, loud)]
    assert as_scanned[1] == pytest.approx(gain * as_scanned[0], rel=1e-3)


def test_a_gain_of_an_integer_image_off_the_grid_disappears_too(tmp_path):
    """As scanners store volumes, with a slope, on voxels of their own."""
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = [-95, -120, -85]
    place = np.moveaxis(np.indices((38, 46, 38)), 0, -1) * 5 + affine[:3, 3]
    inside = (((place - [0, -18, 5]) / [65, 80, 65]) ** 2).sum(axis=-1) < 1
    values = np.where(inside, np.random.default_rng(3).integers(200, 900, inside.shape), 0).astype(np.int16)
    made = []
    for slope in (0.5, 3.0):
        image = nibabel.Nifti1Image(values, affine)
        image.header.set_slope_inter(slope, 0)
        nibabel.save(image, tmp_path / "in.nii.gz")
        assert nibabel.load(tmp_path / "in.nii.gz").get_fdata().max() == slope * values.max()
        made.append(written(as_source(tmp_path / "in.nii.gz"), tmp_path / "out.nii.gz", scale=SCALE, keep_sign=True))
    np.testing.assert_allclose(made[1], made[0], rtol=1e-4, atol=1e-2)
    assert (made[0][~inside] == 0).all()
    found = prepare_image(read_volume(tmp_path / "out.nii.gz"), tmp_path / "out.nii.gz", GRID).tissue
    # Grid voxels at the edge average tissue and empty voxels, which stay 0 on every scale.
    assert (found.mean, found.deviation) == pytest.approx(SCALE_NUMBERS, rel=1e-2)
    assert nibabel.load(tmp_path / "out.nii.gz").get_data_dtype() == np.float32


def test_without_a_scale_every_bit_is_that_of_the_scan_plus_its_change(tmp_path):
    source = save(tmp_path / "in.nii.gz", brain())
    added = np.where(GRID.mask, source.facts.tissue_deviation * CHANGE, 0).astype(np.float32)
    made = written(source, tmp_path / "out.nii.gz").astype(np.float32)
    np.testing.assert_array_equal(made, np.where(brain() != 0, brain() + added, 0))


def test_either_scale_is_prepared_to_the_same_z_scores(tmp_path):
    """So that maps and further runs do not depend on the choice."""
    source, prepared = save(tmp_path / "in.nii.gz", brain()), []
    for scale in (None, SCALE):
        written(source, tmp_path / "out.nii.gz", scale=scale)
        prepared.append(prepare_image(read_volume(tmp_path / "out.nii.gz"), tmp_path / "out.nii.gz", GRID).volume)
    np.testing.assert_allclose(prepared[1], prepared[0], atol=1e-4)


def test_what_would_be_negative_on_the_scale_is_set_to_0_and_counted(tmp_path):
    source, low = save(tmp_path / "in.nii.gz", brain()), CommonScale(300.0, 200.0, 7)
    kept = written(source, tmp_path / "kept.nii.gz", scale=low)
    clipped = write_change(source, CHANGE, GRID, tmp_path / "out.nii.gz", scale=low, keep_sign=True)
    assert clipped.voxels == np.count_nonzero(kept < 0) > 100
    assert clipped.written == np.count_nonzero(kept)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "out.nii.gz").get_fdata(), np.maximum(kept, 0))
    assert sidecar(tmp_path / "out.nii.gz")["VoxelsSetToZero"] == clipped.voxels


def test_a_scale_of_z_scores_keeps_its_negative_half(tmp_path):
    """Where most training images come as z-scores, a raw image without negative voxels is no reason to cut them."""
    source, scale = save(tmp_path / "in.nii.gz", brain()), CommonScale.fit(np.full(3, 1e-9), np.ones(3))
    clipped = write_change(source, CHANGE, GRID, tmp_path / "out.nii.gz", scale=scale, keep_sign=True)
    assert clipped.voxels == 0 and (nibabel.load(tmp_path / "out.nii.gz").get_fdata() < 0).mean() > 0.1


def test_the_sidecar_says_the_scale_and_leads_back_to_the_units_of_the_scan(tmp_path):
    source = save(tmp_path / "in.nii.gz", brain())
    common, as_scanned = (tmp_path / f"{name}.nii.gz" for name in ("common", "as_scanned"))
    on_scale = written(source, common, scale=CommonScale(1000.0, 200.0, 7, "GE"))
    own, facts, plain = written(source, as_scanned), sidecar(common), sidecar(as_scanned)
    assert facts["IntensityScale"] == "common" and plain["IntensityScale"] == "as_scanned"
    assert (facts["TissueMean"], facts["TissueDeviation"]) == (1000, 200)
    assert "medians over 7 training scans of site GE" in facts["IntensityUnits"]
    back = facts["AsScannedTissueMean"] + facts["AsScannedTissueDeviation"] * (on_scale - 1000) / 200
    np.testing.assert_allclose(back[GRID.mask], own[GRID.mask], rtol=1e-4, atol=1e-2)
    z_scores = (on_scale - facts["TissueMean"])[GRID.mask] / facts["TissueDeviation"]
    assert (z_scores.mean(), z_scores.std()) == pytest.approx((0, 1), abs=1e-4)
    assert plain["TissueMean"] == source.facts.tissue_mean
    for scale, words in ((SCALE, "on a common intensity scale"), (None, "in the units of its source")):
        write_description(tmp_path, "1.0", harmonised="change", scale=scale)
        assert words in (tmp_path / "dataset_description.json").read_text()


def volumes(mean: list[float], deviation: list[float], split: list[str]) -> Cohort:
    rows = len(mean)
    parts = volume_inputs(GRID, rows)
    parts.tissue_mean[:], parts.tissue_deviation[:] = mean, deviation
    return Cohort(
        name="made up",
        simulated=False,
        participant_id=np.array([f"sub-{row}" for row in range(rows)]),
        inputs=np.zeros((rows, *GRID.shape), np.float32),
        site=np.arange(rows) % 2,
        site_names=("GE", "Siemens"),
        covariates=np.arange(rows, dtype=np.float64)[:, None],
        covariate_names=("age",),
        target=np.zeros(rows, np.int64),
        target_name="dx",
        target_classes=("AD", "CN"),
        split=np.array(split),
        volumes=parts,
    )


def test_the_scale_is_the_median_tissue_of_the_training_rows_and_comes_back_from_its_file(tmp_path):
    split = ["train"] * 6 + ["test"]
    cohort = volumes([900, 400, 1000, 500, 1100, 420, 9e9], [100, 80, 120, 90, 300, 85, 9e9], split)
    scaling = Scaling.fit(cohort)
    assert ModelFacts.of(cohort, scaling).common_scale == CommonScale(700.0, 95.0, 6)
    facts = ModelFacts.of(cohort, scaling, "GE")
    assert facts.common_scale == CommonScale(1000.0, 120.0, 3, "GE")
    facts.write(RunFolder(tmp_path))
    assert ModelFacts.read(RunFolder(tmp_path)).common_scale == facts.common_scale
    with pytest.raises(InputError, match='config.data.reference = "Philips": expected a site of the training rows, GE'):
        ModelFacts.of(cohort, scaling, "Philips")


@pytest.mark.parametrize("damage", [{"mean": 1.0}, {"mean": 1.0, "deviation": 0.0, "scans": 3}, [1, 2], "x"])
def test_a_damaged_scale_is_refused(tmp_path, damage):
    cohort = volumes([900, 400], [100, 80], ["train", "train"])
    ModelFacts.of(cohort, Scaling.fit(cohort)).write(RunFolder(tmp_path))
    model = json.loads((tmp_path / "model.json").read_text()) | {"common_scale": damage}
    (tmp_path / "model.json").write_text(json.dumps(model))
    with pytest.raises(InputError, match="model.json: expected what eqpool wrote"):
        ModelFacts.read(RunFolder(tmp_path))
