"""Harmonised volumes as files: names, voxels, units; the arithmetic against numpy and scipy."""

import json
import pathlib
import re

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from eqpool.config import OutputConfig
from eqpool.data.volumes.bids_names import scan_names
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.image_files import read_image, read_volume
from eqpool.data.volumes.inputs import ImageFacts
from eqpool.data.volumes.read import prepare_image
from eqpool.data.volumes.resampling import lay_on_grid
from eqpool.errors import InputError
from eqpool.methods import derivatives
from eqpool.methods.derivatives import (
    Source,
    check_not_inputs,
    derivative_paths,
    read_map,
    read_source,
    say_clipped,
    to_z_scores,
    write_change,
    write_decoded,
    write_description,
    write_jacobian,
    write_map,
)
from eqpool.methods.volume_writer import VolumeWriter

GRID = named_grid("24x28x24")


def brain(seed: int = 0) -> np.ndarray:
    return np.where(GRID.mask, np.random.default_rng(seed).uniform(100, 300, GRID.shape), 0).astype(np.float32)


def change() -> np.ndarray:
    return np.random.default_rng(9).normal(size=GRID.shape).astype(np.float32)  # also where it must not count


def read(path: pathlib.Path, root: pathlib.Path | None = None) -> Source:
    """Returns a source with the facts that its preparation finds."""
    tissue = prepare_image(read_volume(path), path, GRID).tissue
    return read_source(path, ImageFacts(tissue.mean, tissue.deviation), root)


def save(path: pathlib.Path, values: np.ndarray, affine: np.ndarray = GRID.affine) -> pathlib.Path:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


@pytest.mark.parametrize("writer", [write_change, write_decoded])
def test_the_sign_of_the_input_is_kept_and_what_that_costs_is_counted(tmp_path, writer):
    """A truth without negative values, seen by a scanner that darkens it; three ways of writing what is made of it."""
    random = np.random.default_rng(1)
    truth = np.where(GRID.mask, random.gamma(1, 80, GRID.shape) + 1, 0).astype(np.float32)
    source = save(tmp_path / "in.nii.gz", np.where(GRID.mask, 0.6 * truth, 0).astype(np.float32))
    tissue = 0.6 * truth[GRID.mask]
    z_truth = np.where(GRID.mask, (truth - tissue.mean()) / tissue.std(), 0)
    noisy = z_truth + random.normal(0, 0.7, GRID.shape)
    made = noisy - np.where(GRID.mask, (0.6 * truth - tissue.mean()) / tissue.std(), 0)
    values = noisy if writer is write_decoded else made
    written, clipped = {}, {}
    for keep in (True, False):
        path = tmp_path / f"{keep}_desc-harmonized_T1w.nii.gz"
        clipped[keep] = writer(read(source), values, GRID, path, keep_sign=keep)
        written[keep] = nibabel.load(path).get_fdata()
        facts = json.loads((tmp_path / f"{keep}_desc-harmonized_T1w.json").read_text())
        assert facts["VoxelsSetToZero"] == clipped[keep].voxels
        assert facts["ShareSetToZero"] == clipped[keep].voxels / GRID.mask.sum()
    below = written[False] < 0
    assert clipped[True].voxels == below.sum() > 50 and clipped[False].voxels == 0
    np.testing.assert_array_equal(written[True], np.where(below, 0, written[False]))
    errors = [np.sqrt(np.mean((written[keep] - truth)[GRID.mask] ** 2)) for keep in (True, False)]
    assert errors[0] < errors[1]
    said: list[str] = []
    say_clipped([clipped[True], clipped[False]], said.append)
    assert len(said) == 1 and said[0].startswith(f"{below.sum()} voxels (") and " of 1 harmonised volumes" in said[0]
    say_clipped([clipped[False]], said.append)
    assert len(said) == 1


def test_an_input_with_negative_voxels_keeps_them(tmp_path):
    """As z-scores or a resampling with splines have them."""
    values = brain() - np.where(GRID.mask, 200, 0).astype(np.float32)
    source, path = save(tmp_path / "in.nii.gz", values), tmp_path / "a_desc-harmonized_T1w.nii.gz"
    assert write_change(read(source), change(), GRID, path, keep_sign=True).voxels == 0
    assert (nibabel.load(path).get_fdata() < 0).sum() > 100


@pytest.mark.parametrize("sides_mm", [(1, 1, 6), (2, 2, 2), (9, 9, 9)])
def test_a_change_of_zero_gives_back_the_input(tmp_path, sides_mm):
    """What is read is smoothed, what is written is not; NaN around the head comes back as 0."""
    shape = tuple(int(200 / side) for side in sides_mm)
    affine = np.diag([*sides_mm, 1.0])
    affine[:3, 3] = [-100, -118, -95]
    place = np.moveaxis(np.indices(shape), 0, -1) * sides_mm + affine[:3, 3]
    inside = (((place - [0, -18, 5]) / [65, 80, 65]) ** 2).sum(axis=-1) < 1
    values = np.where(inside, np.random.default_rng(0).integers(1, 900, shape), np.nan).astype(np.float32)
    source, path = save(tmp_path / "in.nii.gz", values, affine), tmp_path / "a_desc-harmonized_T1w.nii.gz"
    write_change(read(source), np.zeros(GRID.shape), GRID, path, keep_sign=True)
    np.testing.assert_array_equal(nibabel.load(path).get_fdata(), np.nan_to_num(values))


def test_a_change_is_averaged_over_voxels_that_are_coarser_than_the_grid(tmp_path):
    """A change that alternates from voxel to voxel is next to nothing in voxels that hold many of them."""
    affine = GRID.affine @ np.diag([1, 1, 4.0, 1])
    affine[:3, 3] += 1.5 * GRID.affine[:3, 2]
    values = np.where(GRID.mask, 100 + np.random.default_rng(0).uniform(0, 9, GRID.shape), 0)
    values = values.reshape(*GRID.shape[:2], -1, 4).min(axis=-1).astype(np.float32)
    source, path = save(tmp_path / "in.nii.gz", values, affine), tmp_path / "a_desc-harmonized_T1w.nii.gz"
    stripes = np.broadcast_to(np.where(np.arange(GRID.shape[2]) % 2, 1.0, -1.0), GRID.shape)
    write_change(read(source), stripes, GRID, path)
    inside = ndimage.binary_erosion(values != 0)
    added = (nibabel.load(path).get_fdata() - values)[inside]
    write_change(read(source), np.ones(GRID.shape), GRID, path)
    assert inside.sum() > 100
    assert np.abs(added).max() < 0.2 * (nibabel.load(path).get_fdata() - values)[inside].min()


IN_BIDS = [f"sub-9/anat/sub-9_{rest}T1w.nii.gz" for rest in ("run-1_", "run-02_", "acq-a_run-1_", "rec-n_acq-a_", "")]


@pytest.mark.parametrize(
    ("names", "sessions", "expected"),
    [
        (["sub-01"], [""], ["sub-01/anat/sub-01"]),
        (["01"], ["2"], ["sub-01/ses-2/anat/sub-01_ses-2"]),
        (
            ["sub-01", "sub-01"],
            ["ses-a", "ses-b"],
            ["sub-01/ses-a/anat/sub-01_ses-a", "sub-01/ses-b/anat/sub-01_ses-b"],
        ),
        (["sub-01", "sub-01"], ["", ""], ["sub-01/anat/sub-01_run-1", "sub-01/anat/sub-01_run-2"]),
        (["a_b.c", "d"], ["", ""], ["sub-abc/anat/sub-abc", "sub-d/anat/sub-d"]),
        (
            ["1_11", "sub-11_1", "1_11"],  # two people whom BIDS's letters and digits do not tell apart
            ["", "", ""],
            [
                "sub-1118afb3f0f/anat/sub-1118afb3f0f_run-1",
                "sub-111119dbaa8/anat/sub-111119dbaa8",
                "sub-1118afb3f0f/anat/sub-1118afb3f0f_run-2",
            ],
        ),
        (["名"], [""], ["sub-51a5d681/anat/sub-51a5d681"]),
    ],
)
def test_names_are_those_of_bids(tmp_path, names, sessions, expected):
    paths = derivative_paths(tmp_path, scan_names(names, sessions, [""] * len(names)))
    assert paths == [tmp_path / f"{path}_desc-harmonized_T1w.nii.gz" for path in expected]


@pytest.mark.parametrize(
    ("session", "file", "expected"),
    [
        ("", "sub-9_run-2_T1w.nii.gz", "anat/sub-1_run-2"),  # whose scan it is stands in the table
        ("", "x/sub-9_ses-b_acq-mprage_rec-norm_run-02_T1w.nii", "ses-b/anat/sub-1_ses-b_acq-mprage_rec-norm_run-02"),
        ("2", "sub-9_ses-b_T1w.nii.gz", "ses-2/anat/sub-1_ses-2"),  # and so does which visit
        ("", "sub-9_rec-n_ce-g_acq-a_desc-brain_T1w.nii.gz", "anat/sub-1_acq-a_ce-g_rec-n"),
        ("", "sub-9_run-2_T2w.nii.gz", "anat/sub-1"),  # none of BIDS's names of a T1w
        ("", "scan_run-2_T1w.nii.gz", "anat/sub-1"),
        ("", "sub-9_run-x_T1w.nii.gz", "anat/sub-1"),
        ("--", "scan.nii.gz", "ses-d8156bae/anat/sub-1_ses-d8156bae"),
        ("--", "sub-9_ses-b_T1w.nii.gz", "ses-d8156bae/anat/sub-1_ses-d8156bae"),
    ],
)
def test_what_the_table_does_not_say_is_in_the_sources_name(session, file, expected):
    assert scan_names(["1"], [session], [file]) == [f"sub-1/{expected}"]


def test_only_scans_that_would_share_a_name_are_numbered_and_by_numbers_that_no_source_has():
    stem = "sub-9/anat/sub-9"
    own = [f"{stem}_{rest}" for rest in ("run-1", "run-02", "acq-a_run-1", "acq-a_rec-n")] + [stem]
    assert scan_names(["9"] * 5, [""] * 5, IN_BIDS) == own
    assert scan_names(["9"] * 5, [""] * 5, IN_BIDS[::-1]) == own[::-1]
    files = ["a.nii", *IN_BIDS[:3], "b.nii", "other/sub-9_acq-a_run-1_T1w.nii.gz"]
    runs = ["_run-3", "_run-1", "_run-02", "_acq-a_run-1", "_run-4", "_acq-a_run-2"]
    assert scan_names(["9"] * 6, [""] * 6, files) == [f"{stem}{run}" for run in runs]


def test_names_are_never_shared():
    """Whatever a table says: any mixture of few people, sessions and files."""
    random = np.random.default_rng(0)
    files = ["", "a.nii", *IN_BIDS, "sub-9_run-2_T1w.nii.gz", "sub-9_ses-a_T1w.nii.gz", "sub-9_ses-a_run-1_T1w.nii.gz"]
    for _ in range(200):
        rows = [random.choice(few, 12).tolist() for few in (["1", "a.b", "ab", "."], ["", "a", "a-", "-", "1"], files)]
        names = scan_names(*rows)
        assert len(set(names)) == 12 and all(re.fullmatch("[A-Za-z0-9_/-]+", name) for name in names)
        assert all("ses-_" not in name and "ses-/" not in name for name in names)


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("study", "sub-1/anat/in.nii.gz"),
        ("study/../study/./sub-1", "anat/in.nii.gz"),
        ("elsewhere", "in.nii.gz"),
        ("study/sub-1/anat/in", "in.nii.gz"),
        (None, "in.nii.gz"),
    ],
)
def test_the_source_is_named_as_it_stands_in_its_data_set(tmp_path, monkeypatch, root, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study" / "sub-1" / "anat").mkdir(parents=True)
    source = save(tmp_path / "study" / "sub-1" / "anat" / "in.nii.gz", brain())
    out = pathlib.Path("sub-1_desc-harmonized_T1w.nii.gz")
    for writing in (write_change, write_decoded, write_jacobian):
        writing(read(source, None if root is None else pathlib.Path(root)), change(), GRID, out)
    for name in ("T1w", "jacobian"):
        assert json.loads((tmp_path / f"sub-1_desc-harmonized_{name}.json").read_text())["Sources"] == [expected]


def test_the_input_plus_the_change_in_its_own_units(tmp_path):
    source = save(tmp_path / "in.nii.gz", brain())
    before = source.read_bytes()
    write_change(read(source), change(), GRID, tmp_path / "out" / "a_desc-harmonized_T1w.nii.gz")
    written = nibabel.load(tmp_path / "out" / "a_desc-harmonized_T1w.nii.gz")
    tissue = brain()[GRID.mask].astype(np.float64)
    expected = np.where(GRID.mask, brain() + tissue.std() * change(), 0)
    np.testing.assert_allclose(written.get_fdata(), expected, rtol=1e-5)
    np.testing.assert_array_equal(written.affine, GRID.affine)
    assert written.get_data_dtype() == np.float32 and source.read_bytes() == before
    facts = json.loads((tmp_path / "out" / "a_desc-harmonized_T1w.json").read_text())
    assert facts["Sources"] == ["in.nii.gz"]
    assert facts["TissueMean"] == pytest.approx(tissue.mean()) and facts["TissueDeviation"] == pytest.approx(
        tissue.std()
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_desc-harmonized_T1w.json", "a_desc-harmonized_T1w.nii.gz"
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["change", "decoded"])
def test_a_source_is_read_once_and_its_tissue_is_that_of_the_preparation(tmp_path, monkeypatch, form):
    """The tissue is taken from the facts, which may be those of another resampling than the source's own."""
    source, opened = save(tmp_path / "in.nii.gz", brain()), []
    monkeypatch.setattr(derivatives, "read_image", lambda path: opened.append(path) or read_image(path))
    writer = VolumeWriter(
        tmp_path / "out", ["sub-1/anat/sub-1"], [source], tmp_path, GRID, OutputConfig(keep_sign="off"), form=form
    )
    before, after = change(), change()[::-1]
    writer.write(0, after - before, after, ImageFacts(700.0, 2.5), np.ones(GRID.shape))
    assert opened == [source]
    written = nibabel.load(tmp_path / "out" / "sub-1" / "anat" / "sub-1_desc-harmonized_T1w.nii.gz").get_fdata()
    made = brain() + 2.5 * (after - before) if form == "change" else 700 + 2.5 * after
    np.testing.assert_allclose(written, np.where(GRID.mask, made, 0), rtol=1e-5, atol=1e-3)
    assert (tmp_path / "out" / "sub-1" / "anat" / "sub-1_desc-harmonized_jacobian.nii.gz").is_file()


def test_an_input_of_other_axes_and_scale_keeps_them(tmp_path):
    """P-S-R, as the IXI volumes are, as integers with a slope."""
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt("PSR")
    )
    turned = nibabel.Nifti1Image(np.rint(brain()).astype(np.float32), GRID.affine).as_reoriented(turn)
    image = nibabel.Nifti1Image(turned.get_fdata(), turned.affine)
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, 0)
    nibabel.save(image, tmp_path / "in.nii.gz")
    write_change(read(tmp_path / "in.nii.gz"), change(), GRID, tmp_path / "out.nii.gz")
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert nibabel.aff2axcodes(written.affine) == ("P", "S", "R")
    np.testing.assert_array_equal(written.affine, nibabel.load(tmp_path / "in.nii.gz").affine)
    plain = np.rint(brain()) / 2  # nibabel stores the numbers as given, and reads them through the slope
    expected = np.where(GRID.mask, plain + plain[GRID.mask].std() * change(), 0)
    np.testing.assert_allclose(nibabel.as_closest_canonical(written).get_fdata(), expected, rtol=2e-3, atol=0.5)


def test_a_finer_oblique_input_keeps_its_detail(tmp_path):
    """The change is interpolated linearly at the input's voxels, and the input itself is not interpolated."""
    angle = 0.2
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([4.0, 5.0, 6.0])
    shape = (40, 40, 30)
    affine[:3, 3] = np.array([0, -15, 10]) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    values = np.random.default_rng(3).uniform(50, 150, shape).astype(np.float32)
    source = save(tmp_path / "in.nii.gz", values, affine)
    write_change(read(source), change(), GRID, tmp_path / "out.nii.gz")
    written = nibabel.load(tmp_path / "out.nii.gz")
    on_grid = lay_on_grid(read_volume(source), GRID)
    deviation = on_grid[GRID.mask & (on_grid != 0)].std(dtype=np.float64)
    places = (
        np.linalg.inv(GRID.affine) @ affine @ np.vstack([np.indices(shape).reshape(3, -1), np.ones(np.prod(shape))])
    )
    masked = np.where(GRID.mask, change(), 0).astype(np.float64)
    added = deviation * ndimage.map_coordinates(masked, places[:3], order=1, mode="grid-constant").reshape(shape)
    np.testing.assert_allclose(written.get_fdata() - values, added, atol=2e-2)
    np.testing.assert_allclose(written.affine, affine, rtol=1e-6)


def test_a_jacobian_stands_where_it_was_on_voxels_of_other_axes(tmp_path):
    """A determinant that rises along each axis of the world by another slope, on a P-S-R input of other voxels."""
    slope = np.array([0.004, -0.003, 0.002])

    def at(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return (
            1 + np.tensordot(slope, np.moveaxis(nibabel.affines.apply_affine(affine, np.indices(shape).T), -1, 0), 1).T
        )

    affine = np.array([[0, 0, 6.0, -50], [-5.0, 0, 0, 60], [0, -5.0, 0, 70], [0, 0, 0, 1]])
    source = save(
        tmp_path / "in.nii.gz", np.random.default_rng(0).uniform(1, 2, (26, 24, 18)).astype(np.float32), affine
    )
    write_jacobian(
        read_source(source, ImageFacts(0, 1)),
        at(GRID.affine, GRID.shape),
        GRID,
        tmp_path / "sub-1_desc-harmonized_T1w.nii.gz",
    )
    written = nibabel.load(tmp_path / "sub-1_desc-harmonized_jacobian.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    places = nibabel.affines.apply_affine(np.linalg.inv(GRID.affine) @ affine, np.indices((26, 24, 18)).T).T
    inside = np.all((places >= 0) & (places <= np.array(GRID.shape).reshape(3, 1, 1, 1) - 1), axis=0)
    assert inside.sum() > 3000
    np.testing.assert_allclose(written.get_fdata()[inside], at(affine, (26, 24, 18))[inside], atol=1e-5)
    assert "Jacobian" in json.loads((tmp_path / "sub-1_desc-harmonized_jacobian.json").read_text())["Quantity"]


def test_a_decode_replaces_the_input(tmp_path):
    source = save(tmp_path / "in.nii.gz", brain())
    write_decoded(read(source), change(), GRID, tmp_path / "out.nii.gz")
    tissue = brain()[GRID.mask].astype(np.float64)
    expected = np.where(GRID.mask, tissue.mean() + tissue.std() * change(), 0)
    np.testing.assert_allclose(nibabel.load(tmp_path / "out.nii.gz").get_fdata(), expected, rtol=1e-5, atol=1e-3)


def test_an_input_is_never_written_over(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(InputError, match=r"a\.nii\.gz: is an input"):
        check_not_inputs([tmp_path / "link" / "a.nii.gz"], [tmp_path / "a.nii.gz"])
    check_not_inputs([tmp_path / "b.nii.gz"], [tmp_path / "a.nii.gz"])


def test_squashing_is_undone():
    z = np.array([-2.0, 0.0, 1.5])
    np.testing.assert_allclose(to_z_scores(np.tanh(z), squash=True), z)
    assert np.isfinite(to_z_scores(np.array([1.2, -1.0]), squash=True)).all()
    assert to_z_scores(z, squash=False) is z


def test_the_description_says_derivative(tmp_path):
    write_description(tmp_path, "1.0", harmonised="change", origin=": SIMULATED images")
    described = json.loads((tmp_path / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative" and "SIMULATED" in described["Name"]
    assert described["GeneratedBy"][0]["Name"] == "eqpool" and described["BIDSVersion"]


def test_a_map_comes_back(tmp_path):
    values = np.random.default_rng(0).normal(size=GRID.mask.sum()).astype(np.float32)
    write_map(tmp_path / "map.nii.gz", values, GRID)
    np.testing.assert_array_equal(read_map(tmp_path / "map.nii.gz")[GRID.mask], values)
    assert (read_map(tmp_path / "map.nii.gz")[~GRID.mask] == 0).all()


def test_a_real_volume_keeps_its_grid(shared_data, tmp_path):
    source = next((shared_data / "cohorts" / "ixi_brain_2mm").glob("sub-*/anat/*_T1w.nii.gz"))
    before = nibabel.load(source)
    write_change(read(source), np.zeros(GRID.shape, np.float32), GRID, tmp_path / "out.nii.gz")
    after = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-5)
    np.testing.assert_allclose(after.get_fdata(), before.get_fdata(), rtol=1e-6)
