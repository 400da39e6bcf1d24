"""Every kind of file that stands where an image should: read for what it holds, or named in one line."""

import bz2
import gzip
import io
import os
import struct
import tarfile
import zipfile

import nibabel
import numpy as np
import pytest

from eqpool.data.tables.participants import read_participants
from eqpool.data.volumes.file_kinds import is_leftover
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.image_checks import BadVolumeError
from eqpool.data.volumes.image_files import read_image, read_volume
from eqpool.data.volumes.locate import find_images

GRID = named_grid("16x18x16")
BRAIN = np.where(GRID.mask, np.random.default_rng(0).uniform(10, 200, GRID.shape), 0).astype(np.float32)


MIRRORED = GRID.affine @ np.array([[-1.0, 0, 0, 15], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # x stored backwards


def nifti(values=BRAIN, affine=GRID.affine, kind=nibabel.Nifti1Image) -> bytes:
    return kind(values, affine).to_bytes()


def compressed(content: bytes) -> bytes:
    """Without the time, which would give the tests other names in each process that collects them."""
    return gzip.compress(content, mtime=0)


def patched(content: bytes, offset: int, form: str, *values: float) -> bytes:
    data = bytearray(content)
    struct.pack_into(form, data, offset, *values)
    return bytes(data)


def big_endian() -> bytes:
    header = nibabel.Nifti1Header(endianness=">")
    return nibabel.Nifti1Image(BRAIN.astype(">f4"), GRID.affine, header).to_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.nii.gz", nifti()),
        ("compressed.nii", compressed(nifti())),
        ("upper.NII.GZ", compressed(nifti())),
        ("second.nii.gz", nifti(kind=nibabel.Nifti2Image)),
        ("second.nii", compressed(nifti(kind=nibabel.Nifti2Image))),
        ("big.nii.gz", big_endian()),
        ("bzip2.nii.bz2", bz2.compress(nifti())),
        ("frame.nii.gz", compressed(nifti(BRAIN[..., None]))),
        ("no_sizes.nii", patched(nifti(), 80, "<3f", 0, float("nan"), 0)),  # the sform says what they are
        ("slope.nii", patched(nifti(), 112, "<2f", 0, 7)),  # a slope of 0 scales nothing
        ("slope_nan.nii", patched(nifti(), 112, "<2f", float("nan"), 0)),
        ("mirrored.nii", nifti(BRAIN[::-1], MIRRORED)),
    ],
)
def test_what_a_file_holds_decides_how_it_is_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    read = np.asarray(read_volume(tmp_path / name).dataobj)
    np.testing.assert_array_equal(read, BRAIN)


@pytest.mark.parametrize("ending", [".mgz", ".mgh", ".hdr", ".img"])
def test_other_formats(tmp_path, ending):
    kind = nibabel.MGHImage if ending.startswith(".mg") else nibabel.Nifti1Pair
    nibabel.save(kind(BRAIN, GRID.affine), tmp_path / f"a{ending}")
    read = read_volume(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(np.asarray(read.dataobj), BRAIN)
    np.testing.assert_allclose(read.affine, GRID.affine, atol=1e-4)


def zipped() -> bytes:
    archive = io.BytesIO()
    zipfile.ZipFile(archive, "w").writestr("a.nii", "x" * 1000)
    return archive.getvalue()


def tarred() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.nii"))
    return archive.getvalue()


WEB_PAGE = b"\n<!DOCTYPE html><html><body>403 Forbidden</body></html>" + b" " * 600
RGB = np.zeros(GRID.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.nii.gz",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a Git LFS pointer, not the",
        ),
        ("a.nii.gz", b"/annex/objects/MD5E-s9--0.nii.gz\n", "a git-annex pointer, not the image; run git annex get"),
        ("._a.nii.gz", b"\x00\x05\x16\x07" + bytes(4000), "AppleDouble"),
        ("a.nii.gz.part", nifti(), "an unfinished or temporary file (.part)"),
        ("a.nii.crdownload", nifti(), "an unfinished or temporary file (.crdownload)"),
        ("a.nii~", nifti(), "an unfinished or temporary file (~)"),
        ("a.nii", b"", "the file is empty"),
        ("a.nii.gz", bytes(5000), "its first 540 bytes are 0"),
        ("a.nii.gz", zipped(), "a zip archive"),
        ("a.nii.gz", compressed(tarred()), "inside its compression a tar archive"),
        ("a.nii.gz", compressed(compressed(nifti())), "inside its compression a file that was compressed twice"),
        ("a.nii", bz2.compress(nifti()), "a bzip2 file"),
        ("a.nii.gz", WEB_PAGE, "a web page"),
        ("a.nii.gz", compressed(WEB_PAGE), "inside its compression a web page"),
        ("a.mgz", WEB_PAGE, "a web page"),
        ("a.nii", b'{"message": "Not Found"}', "a JSON text"),
        ("a.nii", bytes(128) + b"DICM" + bytes(900), "dcm2niix"),
        ("a.nii", b"\x89HDF\r\n\x1a\n" + bytes(900), "an HDF5 file"),
        ("a.nii.gz", compressed(nibabel.MGHImage(BRAIN, GRID.affine).to_bytes()), "should end in .mgz"),
        ("a.nii.gz", nifti()[:9000], "9000 bytes uncompressed, expected 18784; is it truncated?"),
        ("a.nii", nifti()[:200], "is it truncated?"),
        ("a.hdr", nifti()[:348], "half of a pair, a.img is not beside it"),
        ("a.nii", nifti(np.stack([BRAIN] * 3, axis=-1)), "shape 16x18x16x3, expected three dimensions"),
        ("a.nii", nifti(BRAIN[:, :, :1]), "shape 16x18x1, expected sides of 2"),
        ("a.nii", nifti(RGB), "expected real numbers"),
        ("a.nii", nifti(BRAIN.astype(np.complex64)), "complex64, expected real numbers"),
        ("a.nii", patched(nifti(), 112, "<2f", 2, float("nan")), "invalid intercept nan)"),
        ("a.nii", patched(nifti(), 280, "<12f", *[0] * 12), "its affine is no orientation"),
        ("a.nii", patched(patched(nifti(), 252, "<2h", 1, 0), 80, "<3f", 9, 0, 9), "voxels of 9x0x9 mm"),
        ("a.nii", nifti(BRAIN.astype(np.float64) * 1e300), "infinite or beyond single precision"),
        ("a.nii", nifti(BRAIN.astype(np.float64) * 1e-300), "every voxel is 0"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadVolumeError) as caught:
        read_image(tmp_path / name)
    said = str(caught.value)
    assert said.startswith(str(tmp_path / name)) and expected in said and "\n" not in said and len(said) < 400


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (
            "../.git/annex/objects/0z/1q/MD5E-s9--0.nii.gz",
            "a git-annex link whose image is not here; run git annex get",
        ),
        ("elsewhere.nii.gz", "a link to elsewhere.nii.gz, which is not there"),
        ("", "a folder, expected an image"),
    ],
)
def test_a_path_that_leads_to_no_file(tmp_path, target, expected):
    path = tmp_path / "a.nii.gz"
    os.symlink(target, path) if target else path.mkdir()
    with pytest.raises(BadVolumeError, match=expected):
        read_image(path)


@pytest.mark.parametrize(("unit", "times"), [("meter", 1e-3), ("micron", 1e3), ("mm", 1), ("meter", 1), ("micron", 1)])
def test_an_affine_in_another_unit_is_read_in_millimetres(tmp_path, unit, times):
    """Some programs write a unit beside an affine in millimetres: only one of the two makes a head."""
    affine = np.diag([times] * 3 + [1]) @ GRID.affine
    image = nibabel.Nifti1Image(BRAIN, affine)
    image.set_sform(affine, 4)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(read.affine, GRID.affine, rtol=1e-5)
    np.testing.assert_allclose(read.get_sform(), GRID.affine, rtol=1e-5)


def test_forms_may_lead_to_two_spaces_but_not_to_a_mirror_image(tmp_path):
    image, other = nibabel.Nifti1Image(BRAIN, GRID.affine), GRID.affine.copy()
    image.set_sform(GRID.affine, "mni")
    other[:3, 3] += 30
    image.set_qform(other, "scanner")
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii").affine, GRID.affine, rtol=1e-6)
    other[0] *= -1
    image.set_qform(other, "scanner")
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(BadVolumeError, match="sform and qform disagree about left and right"):
        read_image(tmp_path / "a.nii")


def around(values, outside):
    return np.where(GRID.mask, values, outside).astype(np.float32)


def test_nan_around_the_head_is_background(tmp_path):
    """As SPM writes it; also where a rim of zeros lies around it, and with a few holes inside."""
    expected = around(BRAIN, 0)
    rim = around(BRAIN, np.nan)
    rim[[0, -1]] = rim[:, [0, -1]] = rim[:, :, [0, -1]] = 0
    expected_rim = np.nan_to_num(rim)
    holes = around(BRAIN, np.nan)
    holes[8, 9, 8] = np.nan
    expected_holes = np.nan_to_num(holes)
    for values, wanted in ((around(BRAIN, np.nan), expected), (rim, expected_rim), (holes, expected_holes)):
        (tmp_path / "a.nii").write_bytes(nifti(values))
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.nii").dataobj), wanted)


def test_nan_inside_the_head_is_a_fault(tmp_path):
    holes = around(BRAIN, np.nan)
    holes[7:10, 8:11, 7:10] = np.nan
    for values, expected in (
        (holes, f"27 of {np.count_nonzero(BRAIN)} voxels inside the head are NaN"),
        (np.full_like(BRAIN, np.nan), f"{BRAIN.size} of {BRAIN.size} voxels are NaN"),
        (np.where(GRID.mask, np.inf, 0).astype(np.float32), "infinite"),
        (np.where(GRID.mask, 0, np.nan).astype(np.float32), "every voxel is 0"),
    ):
        (tmp_path / "a.nii").write_bytes(nifti(values))
        with pytest.raises(BadVolumeError, match=expected):
            read_image(tmp_path / "a.nii")


LEFTOVERS = ("._sub-1_T1w.nii.gz", ".sub-1_T1w.nii.gz", "~sub-1_T1w.nii.gz", "#sub-1_T1w.nii.gz")


@pytest.mark.parametrize("session", ["", "ses-2"])
def test_hidden_and_temporary_files_are_no_images(tmp_path, session):
    folder = tmp_path / "sub-1" / session / "anat"
    folder.mkdir(parents=True)
    endings = (".part", "~", ".tmp", ".crdownload", ".download", ".bak")
    for name in (*LEFTOVERS, ".DS_Store", *(f"sub-1_T1w.nii.gz{ending}" for ending in endings)):
        assert is_leftover(name)
        (folder / name).write_bytes(b"x")
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\nsub-1\n")
    (missing,) = find_images(read_participants(table), tmp_path)
    assert not missing.exists() and missing.name == "sub-1_T1w.nii.gz"
    (folder / "sub-1_T1w.nii.gz").write_bytes(b"x")
    assert find_images(read_participants(table), tmp_path) == [folder / "sub-1_T1w.nii.gz"]
    assert not is_leftover("sub-1_T1w.nii.gz")
