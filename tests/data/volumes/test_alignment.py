"""Registration to the template: a known map is found again, and real brains end up where the template is."""

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nilearn.datasets import load_mni152_template
from scipy.spatial.transform import Rotation

from eqpool.data.volumes.alignment import align_to_template, find_alignment
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.image_checks import BadVolumeError
from eqpool.data.volumes.image_files import read_volume
from eqpool.data.volumes.inputs import ImageFacts
from eqpool.data.volumes.preparation import Preparation
from eqpool.data.volumes.prepare import prepare_volumes
from eqpool.data.volumes.read import prepare_image, prepare_volume
from eqpool.data.volumes.resampling import lay_on_grid, resample
from eqpool.errors import InputError
from eqpool.methods.derivatives import read_source, write_change
from eqpool.report.summary import describe_findings, describe_top

GRID = named_grid("mni_4mm")


def template_brain() -> np.ndarray:
    template = load_mni152_template(resolution=2)
    return np.where(GRID.mask, resample(template, GRID.affine, GRID.shape), 0).astype(np.float32)


def alignment_of(path, folder, register=None) -> np.ndarray:
    return find_alignment(read_volume(path), path, folder, register)


def z_scored(brain: np.ndarray) -> np.ndarray:
    """Inside its own mask, as some pipelines hand out: the mean is 0, and so is the background."""
    inside = brain != 0
    return np.where(inside, (brain - brain[inside].mean()) / brain[inside].std(), 0).astype(np.float32)


@pytest.mark.parametrize("intensities", [lambda brain: brain, z_scored])
def test_a_known_map_is_alignment_of(intensities):
    known = np.eye(4)
    known[:3, :3] = Rotation.from_euler("xyz", [8, -5, 6], degrees=True).as_matrix() * [1.1, 0.95, 1.05]
    known[:3, 3] = [9, -14, 11]
    moved = nibabel.Nifti1Image(intensities(template_brain()), np.linalg.inv(known) @ GRID.affine)
    found = align_to_template(moved)
    points = apply_affine(moved.affine, np.argwhere(GRID.mask)[::200])
    off_mm = np.linalg.norm(apply_affine(found, points) - apply_affine(known, points), axis=1)
    assert off_mm.mean() < 1 and off_mm.max() < 3


def test_real_brains_come_to_lie_on_the_template(shared_data, tmp_path):
    path = sorted((shared_data / "cohorts" / "ixi_brain_2mm").glob("sub-*/anat/*_T1w.nii.gz"))[1]
    before, after = (
        prepare_volumes([path], Preparation(GRID, align=align), tmp_path, progress=False)
        for align in ("none", "affine")
    )
    assert before.alignment is None and after.alignment.shape == (1, 4, 4)
    (found,) = before.findings
    assert "1 of 1 volumes overlap the template's brain mask" in found.message and not after.findings
    template = template_brain()[GRID.mask]
    likeness = [np.corrcoef(prepared.inputs[0][GRID.mask], template)[0, 1] for prepared in (before, after)]
    assert likeness[1] > likeness[0] + 0.1
    facts = ImageFacts(after.tissue_mean[0], after.tissue_deviation[0], after.alignment[0])
    write_change(read_source(path, facts), np.zeros(GRID.shape), GRID, tmp_path / "out.nii.gz")
    written, source = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(path)
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    np.testing.assert_allclose(written.get_fdata(), source.get_fdata(), rtol=1e-6)


def test_a_map_is_found_once_for_every_grid(tmp_path):
    path, found = tmp_path / "brain.nii.gz", []
    nibabel.save(nibabel.Nifti1Image(template_brain(), GRID.affine), path)

    def register(image):
        found.append(image)
        return np.diag([1, 1, 1.1, 1])

    cache = tmp_path / "volumes" / "alignments"
    first = alignment_of(path, cache, register)
    np.testing.assert_array_equal(alignment_of(path.rename(tmp_path / "moved.nii.gz"), cache, register), first)
    assert len(found) == 1
    nibabel.save(nibabel.Nifti1Image(2 * template_brain(), GRID.affine), path)
    alignment_of(path, cache, register)
    assert len(found) == 2  # another brain under the same name


def shift(millimetres: float) -> np.ndarray:
    moved = np.eye(4)
    moved[0, 3] = millimetres
    return moved


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (shift(1e9), r"brain\.nii\.gz: covers 0% of .*skull-stripped"),
        (shift(100), r"brain\.nii\.gz: covers \d+% of .*skull-stripped"),
        (np.full((4, 4), np.nan), r"brain\.nii\.gz: no affine map"),
    ],
)
def test_a_map_that_misses_the_template_is_refused_and_not_kept(tmp_path, wrong, expected):
    path, cache = tmp_path / "brain.nii.gz", tmp_path / "cache"
    nibabel.save(nibabel.Nifti1Image(template_brain(), GRID.affine), path)
    for folder in (cache, None):
        with pytest.raises(BadVolumeError, match=expected) as told:
            alignment_of(path, folder, lambda image: wrong)
        assert "config.data.align" not in str(told.value)  # which is what was just done
    assert not cache.exists()


def test_images_whose_headers_are_alike_are_told_apart(tmp_path):
    """Of a pair of files the .hdr alone is named, and two of one protocol may be equal to the byte."""
    found = []

    def register(image):
        found.append(image)
        return np.eye(4)

    for number, brain in enumerate((template_brain(), 2 * template_brain())):
        pair = nibabel.Nifti1Pair(brain, GRID.affine)
        nibabel.save(pair, tmp_path / f"{number}.hdr")
        alignment_of(tmp_path / f"{number}.hdr", tmp_path / "cache", register)
    assert (tmp_path / "0.hdr").read_bytes() == (tmp_path / "1.hdr").read_bytes() and len(found) == 2


@pytest.mark.parametrize("written", ["{}", "[]", '{"millimetres_to_template": [[1, 2], [3]]}', "{"])
def test_a_damaged_map_is_named(tmp_path, written):
    path = tmp_path / "brain.nii.gz"
    nibabel.save(nibabel.Nifti1Image(template_brain(), GRID.affine), path)
    alignment_of(path, tmp_path / "cache", lambda image: np.eye(4))
    kept = next((tmp_path / "cache").iterdir())
    kept.write_text(written)
    with pytest.raises(InputError, match=kept.name):
        alignment_of(path, tmp_path / "cache")


def test_a_change_goes_back_through_the_alignment(tmp_path):
    """An image that lies two voxels off: its change has to land on the same tissue."""
    brain = template_brain()
    alignment = np.eye(4)
    alignment[:3, 3] = [8, -4, 0]
    path = tmp_path / "in.nii.gz"
    nibabel.save(nibabel.Nifti1Image(brain, np.linalg.inv(alignment) @ GRID.affine), path)
    np.testing.assert_allclose(lay_on_grid(read_volume(path), GRID, alignment), brain, atol=1e-5)
    assert prepare_volume(path, GRID)[1] < 0.9 < prepare_volume(path, GRID, alignment=alignment)[1]
    change = np.random.default_rng(0).normal(size=GRID.shape)
    measured = prepare_image(read_volume(path), path, GRID, alignment=alignment).tissue
    facts = ImageFacts(measured.mean, measured.deviation, alignment)
    write_change(read_source(path, facts), change, GRID, tmp_path / "out.nii.gz")
    tissue = brain[GRID.mask & (brain != 0)].std(dtype=np.float64)
    expected = np.where(GRID.mask & (brain != 0), brain + tissue * change, 0)
    np.testing.assert_allclose(nibabel.load(tmp_path / "out.nii.gz").get_fdata(), expected, atol=1e-4)


def save_brains(folder, shifted: int, whole: int = 10) -> list:
    """The template's brain `whole` times, with noise, the first `shifted` of them 20 mm off."""
    paths = []
    for number in range(whole):
        noise = np.random.default_rng(number).uniform(0.9, 1.1, GRID.shape)
        affine = shift(20 if number < shifted else 0) @ GRID.affine
        paths.append(folder / f"{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image((template_brain() * noise).astype(np.float32), affine), paths[-1])
    return paths


def back(image):
    """In place of the registration, which takes seconds: it takes back what `save_brains` did."""
    return np.linalg.inv(image.affine @ np.linalg.inv(GRID.affine))


@pytest.mark.parametrize(("shifted", "aligned"), [(0, False), (1, False), (2, True)])
def test_auto_registers_every_volume_of_a_cohort_of_which_more_than_a_tenth_miss_the_template(
    tmp_path, shifted, aligned
):
    paths = save_brains(tmp_path, shifted)
    auto = Preparation(GRID, align="auto", register=back)
    prepared = prepare_volumes(paths, auto, tmp_path / "cache", progress=False)
    plain = prepare_volumes(
        paths, Preparation(GRID, align="affine" if aligned else "none", register=back), tmp_path / "other"
    )
    assert (prepared.alignment is not None) is aligned
    np.testing.assert_array_equal(np.array([*prepared.inputs]), np.array([*plain.inputs]))
    assert [finding.check for finding in prepared.findings] == ["mask_overlap"] * (shifted == 1)
    (note,) = prepared.notes
    assert f"since {shifted} of 10 volumes overlap" in note and ("every volume is registered" in note) is aligned


def test_auto_counts_a_volume_that_is_refused_for_where_it_lies(tmp_path):
    """Ten centimetres off, most of a head lies outside of the template's mask."""
    paths = save_brains(tmp_path, 0)
    for path in paths[:2]:
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), shift(100) @ GRID.affine), path)
    with pytest.raises(BadVolumeError, match="is it in MNI space"):
        prepare_volumes(paths, Preparation(GRID), tmp_path / "cache", progress=False)
    prepared = prepare_volumes(paths, Preparation(GRID, align="auto", register=back), tmp_path / "cache")
    assert len(prepared.kept) == 10 and prepared.overlap.min() > 0.95 and not prepared.findings


def test_auto_stops_at_a_damaged_volume_and_leaves_it_out_on_request(tmp_path):
    paths = save_brains(tmp_path, 0)
    paths[3].write_bytes(b"none")
    auto = Preparation(GRID, align="auto", register=back)
    with pytest.raises(BadVolumeError, match=r"3\.nii\.gz: not a readable image"):
        prepare_volumes(paths, auto, tmp_path / "cache", progress=False)
    prepared = prepare_volumes(paths, auto, tmp_path / "cache", "skip", progress=False)
    assert len(prepared.kept) == 9 and prepared.alignment is None
    assert (
        prepared.notes[0].startswith("data.align = auto: no volume is registered") and "3.nii.gz" in prepared.notes[1]
    )


def test_a_misaligned_cohort_is_a_warning_on_top_and_a_stray_volume_a_line_below(tmp_path):
    findings = {
        shifted: prepare_volumes(save_brains(tmp_path, shifted), Preparation(GRID), tmp_path / "cache").findings
        for shifted in (1, 2)
    }
    assert describe_top(findings[1]) == "" and "warning: mask_overlap: 1 of 10" in describe_findings(findings[1])
    assert describe_top(findings[2]).startswith("WARNING: 2 of 10 volumes overlap the template's brain mask by a Dice")
    assert "2 of 10" not in describe_findings(findings[2])
