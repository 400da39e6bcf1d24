import gzip
import pathlib

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nilearn.image import resample_to_img, smooth_img
from scipy.spatial.transform import Rotation

from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.image_checks import BadVolumeError
from eqpool.data.volumes.image_files import read_volume
from eqpool.data.volumes.read import prepare_volume

GRID = named_grid("mni_4mm")


def brain(seed=0):
    random = np.random.default_rng(seed)
    return np.where(GRID.mask, random.uniform(10, 200, GRID.shape), 0)


def save(path, array, affine=GRID.affine, dtype=np.float32):
    nibabel.save(nibabel.Nifti1Image(np.asarray(array).astype(dtype), affine), path)
    return path


def landmark(path, codes, tilt_degrees, flipped):
    """A head-sized image stored along `codes` with one bright spot on the LEFT (x = -40 mm)."""
    start = nibabel.orientations.axcodes2ornt(("R", "A", "S"))
    turn = nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(codes))
    shape = (80, 90, 80)
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    affine[:3, :3] = Rotation.from_euler("xyz", [tilt_degrees] * 3, degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = np.array([0.0, -17.0, 5.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    positions = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    distance = np.linalg.norm(positions - np.array([-40.0, -20.0, 10.0]), axis=-1)
    values = 50 + 150 * np.exp(-((distance / 10) ** 2))
    image = nibabel.Nifti1Image(values.astype(np.float32), affine).as_reoriented(turn)
    array, affine = np.asarray(image.dataobj), image.affine.copy()
    if flipped:
        array = array[::-1]
        affine[:3, 3] += affine[:3, 0] * (array.shape[0] - 1)
        affine[:3, 0] *= -1
    stored = nibabel.Nifti1Image(array, affine)
    stored.set_data_dtype(np.uint8)
    stored.header.set_slope_inter(2.0, 0.0)
    nibabel.save(stored, path)
    return path


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "AIL"])
@pytest.mark.parametrize("tilt_degrees", [0, 12])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_spot_on_the_left_lands_left(tmp_path, codes, tilt_degrees, flipped):
    path = landmark(tmp_path / "spot.nii.gz", tuple(codes), tilt_degrees, flipped)
    volume, overlap = prepare_volume(path, GRID)
    found = apply_affine(GRID.affine, np.unravel_index(volume.argmax(), volume.shape))
    np.testing.assert_allclose(found, [-40, -20, 10], atol=4)
    assert 0.3 < overlap < 0.5 and volume.dtype == np.float32  # a block around the whole brain


def test_slope_and_intercept(tmp_path):
    image = nibabel.Nifti1Image(np.linspace(-7, 30, 27).reshape(3, 3, 3), np.eye(4))
    image.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, -3.0)
    nibabel.save(image, tmp_path / "scaled.nii")
    content = (tmp_path / "scaled.nii").read_bytes()
    slope, intercept = np.frombuffer(content[112:120], "<f4")
    assert (slope, intercept) == (0.5, -3)
    expected = slope * np.frombuffer(content[352:], "<i2").reshape(3, 3, 3, order="F") + intercept
    np.testing.assert_allclose(read_volume(tmp_path / "scaled.nii").get_fdata(), expected, atol=1e-5)


def test_z_scores_inside_the_mask(tmp_path):
    array = brain()
    array[GRID.mask & (np.indices(GRID.shape)[0] == 25)] = 0
    volume, overlap = prepare_volume(save(tmp_path / "a.nii.gz", array), GRID)
    tissue = GRID.mask & (array != 0)
    np.testing.assert_allclose([volume[tissue].mean(), volume[tissue].std()], [0, 1], atol=1e-5)
    assert (volume[~GRID.mask] == 0).all()
    assert overlap == pytest.approx(2 * tissue.sum() / ((array != 0).sum() + GRID.mask.sum()))
    assert (volume[GRID.mask & (array == 0)] < volume[tissue].min()).all()


def test_intensity_scale_does_not_matter_and_skull_is_left_out(tmp_path):
    array = brain()
    skull = np.where(GRID.mask, array, 900)
    first, _ = prepare_volume(save(tmp_path / "a.nii.gz", array), GRID)
    second, _ = prepare_volume(save(tmp_path / "b.nii.gz", 37 * skull), GRID)
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_squash_is_tanh(tmp_path):
    path = save(tmp_path / "a.nii.gz", brain())
    np.testing.assert_allclose(
        prepare_volume(path, GRID, squash=True)[0], np.tanh(prepare_volume(path, GRID)[0]), atol=1e-6
    )


def test_a_single_fourth_dimension_is_a_volume(tmp_path):
    path = save(tmp_path / "a.nii.gz", brain()[..., None])
    assert prepare_volume(path, GRID)[0].shape == GRID.shape


def spoiled(folder, kind):
    array = brain()
    path = folder / "bad.nii.gz"
    if kind == "absent":
        return path
    if kind == "text":
        path.write_text("no image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        whole = save(path, array).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "truncated uncompressed":
        path = folder / "bad.nii"
        path.write_bytes(save(path, array).read_bytes()[:5000])
    elif kind == "four dimensions":
        save(path, np.stack([array] * 3, axis=-1))
    elif kind == "two dimensions":
        save(path, array[20])
    elif kind == "zero":
        save(path, 0 * array)
    elif kind == "nan inside":
        array[20:30, 25:35, 15:25] = np.nan
        save(path, array)
    elif kind == "one infinite":
        array[25, 30, 20] = np.inf
        save(path, array)
    elif kind == "all nan":
        save(path, array * np.nan)
    elif kind == "constant":
        save(path, np.full(GRID.shape, 7.0))
    elif kind == "elsewhere":
        affine = GRID.affine.copy()
        affine[0, 3] += 110
        save(path, array, affine)
    elif kind == "far away":
        affine = GRID.affine.copy()
        affine[0, 3] += 5000
        save(path, array, affine)
    elif kind == "absurd size":
        content = bytearray(gzip.decompress(save(path, array).read_bytes()))
        content[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
        path.write_bytes(gzip.compress(bytes(content[:400])))
    elif kind == "no orientation":
        image = nibabel.Nifti1Image(array.astype(np.float32), GRID.affine)
        image.set_sform(None, code=0)
        image.set_qform(None, code=0)
        nibabel.save(image, path)
    elif kind == "singular":
        affine = GRID.affine.copy()
        affine[:3, 0] = 0
        content = bytearray(gzip.decompress(save(path, array).read_bytes()))
        for row in range(3):
            content[280 + 16 * row : 296 + 16 * row] = affine[row].astype("<f4").tobytes()
        path.write_bytes(gzip.compress(bytes(content)))
    return path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("absent", "no such image"),
        ("text", "not a readable image"),
        ("empty", "not a readable image"),
        ("truncated", "truncated"),
        ("truncated uncompressed", "truncated"),
        ("four dimensions", "50x59x48x3, expected three"),
        ("two dimensions", "expected three"),
        ("zero", "every voxel is 0"),
        ("nan inside", "1000 of 29398"),
        ("nan inside", "voxels inside the head are NaN"),
        ("one infinite", "1 of 141600 voxels are infinite"),
        ("all nan", "141600 of 141600"),
        ("constant", "constant (7)"),
        ("elsewhere", "of the template's brain mask"),
        ("elsewhere", 'is it in MNI space? (config.data.align = "affine" would align it)'),
        ("far away", "covers 0%"),
        ("absurd size", "30000x30000x30000"),
        ("no orientation", "left and right"),
        ("singular", "no orientation"),
    ],
)
def test_bad_volumes_are_told_in_one_line(tmp_path, kind, expected):
    path = spoiled(tmp_path, kind)
    with pytest.raises(BadVolumeError) as caught:
        prepare_volume(path, GRID)
    message = str(caught.value)
    assert str(path) in message and expected in message and "\n" not in message


def test_damaged_headers_never_raise_anything_else(tmp_path):
    small = named_grid("24x28x24")
    random = np.random.default_rng(0)
    image = nibabel.Nifti1Image((small.mask * random.uniform(1, 99, small.shape)).astype(np.int16), small.affine)
    nibabel.save(image, tmp_path / "good.nii")
    good = (tmp_path / "good.nii").read_bytes()
    for _ in range(300):
        damaged = bytearray(good)
        for position in random.integers(0, 352, 3):
            damaged[position] = random.integers(0, 256)
        (tmp_path / "bad.nii").write_bytes(damaged)
        try:
            volume, _ = prepare_volume(tmp_path / "bad.nii", small)
        except BadVolumeError:
            continue
        assert np.isfinite(volume).all()


def test_ixi_comes_out_as_nibabel_and_nilearn_say(shared_data):
    paths = sorted((shared_data / "cohorts" / "ixi_brain_2mm").glob("sub-*/anat/*_T1w.nii.gz"))[:3]
    for path in paths:
        stored = nibabel.load(path)
        assert nibabel.aff2axcodes(stored.affine) == ("P", "S", "R") and stored.dataobj.slope != 1
        read = read_volume(path)
        assert nibabel.aff2axcodes(read.affine) == ("R", "A", "S")
        # An independent route: every voxel's value and place in millimetres, whatever the order of storage.
        index = np.argwhere(stored.get_fdata() > np.quantile(stored.get_fdata(), 0.999))[:50]
        there = np.rint(apply_affine(np.linalg.inv(read.affine), apply_affine(stored.affine, index))).astype(int)
        np.testing.assert_allclose(read.get_fdata()[tuple(there.T)], stored.get_fdata()[tuple(index.T)], rtol=1e-5)
        head = nibabel.Nifti1Image(stored.get_fdata().astype(np.float32), stored.affine)
        filled = nibabel.Nifti1Image((stored.get_fdata() != 0).astype(np.float32), stored.affine)
        fwhm_mm = np.sqrt(4.0**2 - 2.0**2)  # what the grid's voxels are wider than the image's
        reference, share = (
            resample_to_img(
                smooth_img(image, fwhm_mm),
                nibabel.Nifti1Image(GRID.mask.astype(np.float32), GRID.affine),
                interpolation="linear",
                copy_header=True,
                force_resample=True,
            ).get_fdata()
            for image in (head, filled)
        )
        reference[share < 0.5] = 0  # empty by more than half
        volume, _ = prepare_volume(pathlib.Path(path), GRID)
        tissue = GRID.mask & (reference != 0)
        scaled = (reference - reference[tissue].mean()) / reference[tissue].std()
        np.testing.assert_allclose(volume[tissue], scaled[tissue], atol=2e-3)


def test_a_quaternion_rounded_beyond_one_beside_a_good_sform_is_no_fault(tmp_path):
    image = nibabel.Nifti1Image(brain().astype(np.float32), GRID.affine)
    image.set_sform(GRID.affine, code=4)
    image.set_qform(GRID.affine, code=1)
    image.header["quatern_b"], image.header["quatern_c"], image.header["quatern_d"] = 1.00002, 0, 0
    image.header["pixdim"][0] = 1
    image.to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match="w2 should be positive"):
        nibabel.load(tmp_path / "a.nii.gz").get_qform(coded=True)
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").affine, GRID.affine, atol=1e-5)


def test_without_left_and_right_no_format_is_taken(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(brain().astype(np.float32), GRID.affine), tmp_path / "analyze.hdr")
    pair = nibabel.Nifti1Pair(brain().astype(np.float32), GRID.affine)
    nibabel.save(pair, tmp_path / "good.hdr")
    pair.set_sform(None, code=0)
    pair.set_qform(None, code=0)
    nibabel.save(pair, tmp_path / "bad.hdr")
    for name in ("analyze.hdr", "bad.hdr"):
        with pytest.raises(BadVolumeError, match="left and right are unknown"):
            read_volume(tmp_path / name)
    np.testing.assert_allclose(read_volume(tmp_path / "good.hdr").affine, GRID.affine, atol=1e-5)


def test_a_surface_is_no_volume(tmp_path):
    points = nibabel.gifti.GiftiDataArray(np.zeros((4, 3), np.float32), "NIFTI_INTENT_POINTSET")
    nibabel.save(nibabel.gifti.GiftiImage(darrays=[points]), tmp_path / "lh.surf.gii")
    with pytest.raises(BadVolumeError, match="GiftiImage, expected a volume"):
        read_volume(tmp_path / "lh.surf.gii")
