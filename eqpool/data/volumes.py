"""One T1 volume: read, turned to RAS+, laid on the grid and scaled; every fault told in one line."""

import contextlib
import gzip
import math
import os
import pathlib
import struct
import warnings
import zlib
from typing import NamedTuple, cast

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from nibabel.wrapstruct import WrapStructError
from nilearn.image import resample_img
from nilearn.image.resampling import BoundingBoxError

from eqpool.data.cohort import Grid
from eqpool.errors import InputError

# A mask resampled linearly is what is meant: its values become shares of a voxel.
warnings.filterwarnings("ignore", message="Resampling binary images", module=__name__)

LARGEST_SIDE = 2048
MOST_VOXELS = 500_000_000  # a 0.25 mm head; a header that asks for more is damaged, and would fill the memory
# A brain off by a third of its width still covers this much; what covers less is another place or space.
LEAST_COVERAGE = 0.3
# Aligned brains overlap the mask by a Dice of about 0.9 and more; the 120 IXI brains, not aligned, by 0.75 (median).
ALIGNED_OVERLAP = 0.85
# What is larger than this uncompressed must not be a hundred times smaller on disk: head scans shrink to a third, their
# empty background to nothing, a bomb to a thousandth.
SUSPICIOUS_BYTES, MOST_TIMES_SMALLER = 2**28, 100
_NIFTI2 = (struct.pack("<i", 540), struct.pack(">i", 540))  # the first field, its own size
_MOST_BESIDE = 2**24  # bytes of header extensions, and of what may follow the image
_UNREADABLE = (
    ImageFileError, HeaderDataError, HeaderTypeError, OSError, EOFError, ValueError, TypeError, OverflowError,
    WrapStructError, zlib.error, struct.error, MemoryError,
)  # fmt: skip


class BadVolumeError(InputError):
    """A volume that cannot be used; `config.data.on_bad_volume` decides whether it stops the run.

    Attributes:
      passes: the fault may be the machine's, such as permissions or memory, and not the file's.
    """

    def __init__(self, message: object = "", passes: bool = False):
        super().__init__(message)
        self.passes = passes


def read_volume(path: pathlib.Path) -> nibabel.Nifti1Image:
    """A 3D image in RAS+ orientation, float32, with the header's scale slope and intercept applied.

    Raises:
      BadVolumeError: as `read_image`.
    """
    return to_ras(read_image(path), path)


def to_ras(image: nibabel.Nifti1Image, path: pathlib.Path) -> nibabel.Nifti1Image:
    """The same image with its axes flipped and exchanged to the closest RAS+ orientation.

    Raises:
      BadVolumeError: its affine gives no orientation; `path` starts the message.
    """
    try:
        return nibabel.as_closest_canonical(image)
    except OrientationError as error:
        raise BadVolumeError(f"{path}: its affine gives no orientation ({_one_line(error)})") from error


def read_image(path: pathlib.Path) -> nibabel.Nifti1Image:
    """A 3D image as the file has it, axes and affine untouched, float32, scale slope and intercept applied.

    Raises:
      BadVolumeError: no such file, not an image, truncated, not three-dimensional, an absurd size, no orientation, NaN
        or infinite voxels, or all zero.
    """
    image = _open(path)
    _check_header(image.header, path)
    _check_orientation(image, path)
    try:
        with np.errstate(all="ignore"):  # what overflows becomes infinite and is told below
            array = np.asanyarray(image.dataobj, dtype=np.float32)
    except _UNREADABLE as error:
        raise _unreadable(f"{path}: the image data cannot be read", error) from error
    array = array.reshape(array.shape[:3])
    _check_values(array, path)
    plain = nibabel.Nifti1Image(array, image.affine)
    if isinstance(image, nibabel.Nifti1Pair):  # what space the affine leads to: scanner, template, ...
        plain.set_sform(*image.get_sform(coded=True))
        with contextlib.suppress(ValueError, HeaderDataError):  # a quaternion rounded beyond 1, beside a good sform
            plain.set_qform(*image.get_qform(coded=True))
    return plain


def prepare_volume(
    path: pathlib.Path, grid: Grid, *, squash: bool = False, alignment: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Reads one image and makes it ready for a network.

    Resampling is linear and skipped for an image that already lies on the grid. Intensities are z-scored with the
    mean and standard deviation of the tissue: voxels inside the grid's brain mask that are not 0. Voxels outside the
    mask become 0; empty voxels inside it stay as dark as they are.

    Args:
      path: a NIfTI file in template space.
      grid: the target.
      squash: tanh of the z-score, for networks whose output lies in [-1, 1] (method.md section 7).
      alignment: (4, 4) from the image's millimetres to the template's; None where it lies in template space already.

    Returns:
      The volume, `grid.shape` float32, and how its non-zero voxels overlap the brain mask, a Dice coefficient.

    Raises:
      BadVolumeError: as `read_volume`; or the image misses the template's brain, or is constant inside it.
    """
    volume = lay_on_grid(read_volume(path), grid, alignment)
    tissue = measure_tissue(volume, grid, path, aligned=alignment is not None)
    scaled = np.where(grid.mask, (volume - tissue.mean) / tissue.deviation, 0)
    return (np.tanh(scaled) if squash else scaled).astype(np.float32), tissue.overlap


class Tissue(NamedTuple):
    """The intensities of one image's tissue, in the image's own units.

    Attributes:
      mean, deviation: over voxels inside the brain mask that are not 0; they make the z-scores.
      overlap: Dice coefficient of the image's non-zero voxels and the brain mask.
    """

    mean: float
    deviation: float
    overlap: float


def measure_tissue(volume: np.ndarray, grid: Grid, path: pathlib.Path, *, aligned: bool = False) -> Tissue:
    """Mean and deviation of a volume that lies on the grid; `aligned` where it was registered to get there.

    Raises:
      BadVolumeError: it misses the template's brain, or is constant inside it; `path` starts the message.
    """
    tissue = grid.mask & (volume != 0)
    coverage = float(tissue.sum() / grid.mask.sum())
    if coverage < LEAST_COVERAGE:
        if aligned:
            hint = "is it a skull-stripped brain? (its alignment to the template failed)"
        else:
            hint = 'is it in MNI space? (config.data.align = "affine" would align it)'
        raise BadVolumeError(
            f"{path}: covers {coverage:.0%} of the template's brain mask ({grid.name}), expected at least "
            f"{LEAST_COVERAGE:.0%}; {hint}"
        )
    values = volume[tissue].astype(np.float64)
    mean, deviation = float(values.mean()), float(values.std())
    if deviation <= 1e-6 * max(abs(mean), 1e-30):
        raise BadVolumeError(f"{path}: constant ({mean:g}) inside the brain mask, expected an image")
    return Tissue(mean, deviation, float(2 * tissue.sum() / (np.count_nonzero(volume) + grid.mask.sum())))


def _open(path: pathlib.Path) -> nibabel.Nifti1Image:
    if not os.path.isfile(path):  # Path's own raises at a name that is too long
        raise BadVolumeError(f"{path}: no such image")
    try:
        if path.name.lower().endswith(".nii.gz"):
            return _open_compressed(path)
        image = nibabel.load(path)
    except BadVolumeError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(f"{path}: not a readable image", error) from error
    if not isinstance(image, nibabel.spatialimages.SpatialImage):
        raise BadVolumeError(f"{path}: {type(image).__name__}, expected a volume")
    return cast(nibabel.Nifti1Image, image)  # other formats that nibabel knows work alike


def _unreadable(said: str, error: BaseException) -> BadVolumeError:
    passes = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
    return BadVolumeError(f"{said} ({_one_line(error)}){'' if passes else '; is it truncated?'}", passes)


def _open_compressed(path: pathlib.Path) -> nibabel.Nifti1Image:
    """As `nibabel.load`, which stops reading after the last voxel and so never comes to gzip's checksum at the end.

    Nothing is allocated before the header is found to be plausible, and never more than it asks for.
    """
    with gzip.open(path) as file:
        start = file.read(nibabel.Nifti2Header.sizeof_hdr)
        kind = nibabel.Nifti2Image if start[:4] in _NIFTI2 else nibabel.Nifti1Image
        header = kind.header_class(start[: kind.header_class.sizeof_hdr])
        _check_header(header, path)
        offset = int(header["vox_offset"])
        if not 0 <= offset <= _MOST_BESIDE:
            raise BadVolumeError(f"{path}: its voxels start at byte {offset}, expected at most {_MOST_BESIDE}")
        end = offset + _claimed_bytes(header)
        content = start + file.read(max(0, end - len(start)))
        if len(content) < end:
            raise BadVolumeError(f"{path}: {len(content)} bytes uncompressed, expected {end}; is it truncated?")
        if len(file.read(_MOST_BESIDE)) == _MOST_BESIDE:  # reading on to the end also checks the checksum there
            raise BadVolumeError(f"{path}: goes on for {_MOST_BESIDE} bytes and more after its image")
    return cast(nibabel.Nifti1Image, kind.from_bytes(content))


def _claimed_bytes(header: nibabel.Nifti1Header) -> int:
    return math.prod(int(side) for side in header.get_data_shape()) * header.get_data_dtype().itemsize


def _check_header(header: nibabel.Nifti1Header, path: pathlib.Path) -> None:
    try:
        shape = header.get_data_shape()
    except _UNREADABLE as error:
        raise _unreadable(f"{path}: not a readable header", error) from error
    if np.dtype(header.get_data_dtype()).kind not in "iuf":
        raise BadVolumeError(f"{path}: voxels of type {header.get_data_dtype()}, expected real numbers")
    if len(shape) < 3 or any(side != 1 for side in shape[3:]):
        raise BadVolumeError(f"{path}: shape {_by(shape)}, expected three dimensions")
    # Python's integers: a damaged header's product overflows a fixed-width one.
    voxels = int(shape[0]) * int(shape[1]) * int(shape[2])
    if min(shape[:3]) < 2 or max(shape[:3]) > LARGEST_SIDE or voxels > MOST_VOXELS:
        raise BadVolumeError(f"{path}: shape {_by(shape)}, expected sides of 2 to {LARGEST_SIDE} voxels")
    claimed, stored = _claimed_bytes(header), path.stat().st_size
    if claimed > SUSPICIOUS_BYTES and claimed > MOST_TIMES_SMALLER * stored and ".hdr" not in path.suffixes:
        raise BadVolumeError(
            f"{path}: {stored} bytes that claim to hold {claimed}, expected at most {MOST_TIMES_SMALLER} times as many"
        )


def _check_orientation(image: nibabel.Nifti1Image, path: pathlib.Path) -> None:
    if not _is_orientation(image.affine):
        raise BadVolumeError(f"{path}: its affine is no orientation, expected invertible, voxels of 0.01 to 100 mm")
    is_nifti = isinstance(image, nibabel.Nifti1Pair)  # a single file, and version 2, too
    if is_nifti and not (image.header["qform_code"] or image.header["sform_code"]):
        raise BadVolumeError(f"{path}: sform and qform codes are both 0, so left and right are unknown")
    if isinstance(image, nibabel.AnalyzeImage) and not is_nifti:
        raise BadVolumeError(f"{path}: {type(image).__name__} has no orientation, so left and right are unknown")


def _is_orientation(affine: np.ndarray | None) -> bool:
    if affine is None or not np.all(np.isfinite(affine)):
        return False
    sides_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if sides_mm.min() < 0.01 or sides_mm.max() > 100 or np.abs(affine[:3, 3]).max() > 1e5:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / sides_mm)) > 0.01)


def _check_values(array: np.ndarray, path: pathlib.Path) -> None:
    broken = int(array.size - np.isfinite(array).sum())
    if broken:
        raise BadVolumeError(f"{path}: {broken} of {array.size} voxels are NaN or infinite, expected numbers")
    if not array.any():
        raise BadVolumeError(f"{path}: every voxel is 0, expected an image")


def lay_on_grid(image: nibabel.Nifti1Image, grid: Grid, alignment: np.ndarray | None = None) -> np.ndarray:
    """A RAS+ image's values at the grid's voxels, linearly interpolated, `grid.shape` float32, 0 beside the image.

    `alignment` (4, 4) leads from the image's millimetres to the grid's, where they are not the same.
    """
    if alignment is not None:
        image = nibabel.Nifti1Image(np.asarray(image.dataobj), alignment @ image.affine)
    if image.shape == grid.shape and np.allclose(image.affine, grid.affine, atol=1e-3):
        return np.asarray(image.dataobj, dtype=np.float32)
    return resample_linearly(image, grid.affine, grid.shape)


def resample_linearly(image: nibabel.Nifti1Image, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An image's values at other voxels, `shape` float32; 0 beside the image, also where it lies wholly elsewhere."""
    try:
        resampled = resample_img(
            image,
            target_affine=affine,
            target_shape=shape,
            interpolation="linear",
            copy_header=True,
            force_resample=True,
        )
    except BoundingBoxError:
        return np.zeros(shape, np.float32)
    return np.asarray(resampled.dataobj, dtype=np.float32)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
