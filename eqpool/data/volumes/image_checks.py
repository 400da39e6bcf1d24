"""Checks of an image's header, orientation and voxels. Each fault is reported in one line."""

import math
import pathlib
import struct
import zlib
from collections.abc import Sequence
from xml.parsers.expat import ExpatError

import nibabel
import numpy as np
from nibabel.brikhead import AFNIHeaderError
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.minc1 import MincError
from nibabel.parrec import PARRECError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from nibabel.wrapstruct import WrapStructError
from scipy import ndimage

from eqpool.data.volumes.file_kinds import other_kind
from eqpool.errors import InputError

LARGEST_SIDE = 2048
MOST_VOXELS = 500_000_000  # a head at 0.25 mm. A larger count means a damaged header, and would fill the memory
# A larger image must not be more than a hundred times smaller on disk. Head scans compress to about a third, or to less
# if their background is empty. A decompression bomb compresses to a thousandth.
SUSPICIOUS_BYTES, MOST_TIMES_SMALLER = 2**28, 100
SMALLEST_VOXEL_MM, LARGEST_VOXEL_MM = 0.01, 100
MOST_NAN_INSIDE = 0.01  # share of the head's voxels that may be NaN: holes of a mask, not a failed computation
_MILLIMETRES = {1: 1e3, 3: 1e-3}  # NIfTI's unit codes for metres and microns
_USUAL_SIDES_MM = (0.05, 20)
_SIZES = {
    struct.pack(order + "i", size): size for order in "<>" for size in (348, 540)
}  # NIfTI's first field, the header's size
UNREADABLE = (
    ImageFileError, HeaderDataError, HeaderTypeError, OSError, EOFError, ValueError, TypeError, OverflowError,
    WrapStructError, zlib.error, struct.error, MemoryError, KeyError, IndexError, AttributeError,
    MGHError, PARRECError, AFNIHeaderError, MincError, ExpatError,
)  # fmt: skip


class BadVolumeError(InputError):
    """A volume that cannot be used; `config.data.on_bad_volume` decides whether it stops the run.

    Attributes:
      passes: whether the fault may pass, since it lies with the machine (permissions, memory) and not with the file.
    """

    def __init__(self, message: object = "", passes: bool = False):
        super().__init__(message)
        self.passes = passes


def unreadable(said: str, error: BaseException) -> BadVolumeError:
    """Returns the `BadVolumeError` to raise for one of `UNREADABLE`. Its message is `said`, followed by the cause."""
    passes = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
    whole = passes or isinstance(error, HeaderDataError | HeaderTypeError)
    return BadVolumeError(f"{said} ({one_line(error)}){'' if whole else '; is it truncated?'}", passes)


def check_start(path: pathlib.Path, start: bytes, where: str = "") -> None:
    """Raises `BadVolumeError` if `start` is not a NIfTI header or lacks voxel sizes (nibabel would assume 1 mm)."""
    if start[:4] not in _SIZES:
        if other := other_kind(start):
            raise BadVolumeError(f"{path}: {where}{other}, expected an image")
        raise BadVolumeError(f"{path}: not a readable image ({where}no NIfTI header at its start); is it truncated?")
    kind = kind_of(start)
    size = kind.header_class.sizeof_hdr
    if len(start) < size:
        raise BadVolumeError(f"{path}: not a readable image ({len(start)} bytes {where}of a header); is it truncated?")
    header = kind.header_class(start[:size], check=False)
    voxel = np.asarray(header["pixdim"][1:4], np.float64)
    if not header["sform_code"] and not np.all(np.abs(voxel) > 0):
        raise BadVolumeError(f"{path}: voxels of {_by(voxel)} mm in its header, expected sizes above 0")


def kind_of(start: bytes) -> type[nibabel.Nifti1Image]:
    """Returns the image class of a NIfTI file that begins with `start`, which `check_start` has accepted."""
    return nibabel.Nifti2Image if _SIZES[start[:4]] == 540 else nibabel.Nifti1Image


def claimed_bytes(header: nibabel.Nifti1Header) -> int:
    """Returns the number of bytes of voxel data that a header announces."""
    return math.prod(int(side) for side in header.get_data_shape()) * header.get_data_dtype().itemsize


def check_header(header: nibabel.Nifti1Header, path: pathlib.Path) -> None:
    """Raises `BadVolumeError` unless a header announces a volume of real numbers with a plausible size."""
    try:
        shape = header.get_data_shape()
    except UNREADABLE as error:
        raise unreadable(f"{path}: not a readable header", error) from error
    if np.dtype(header.get_data_dtype()).kind not in "iuf":
        raise BadVolumeError(f"{path}: voxels of type {header.get_data_dtype()}, expected real numbers")
    if len(shape) < 3 or any(side != 1 for side in shape[3:]):
        raise BadVolumeError(f"{path}: shape {_by(shape)}, expected three dimensions")
    # Python integers, because the product of a damaged header's sides overflows a fixed-width integer.
    voxels = int(shape[0]) * int(shape[1]) * int(shape[2])
    if min(shape[:3]) < 2 or max(shape[:3]) > LARGEST_SIDE or voxels > MOST_VOXELS:
        raise BadVolumeError(f"{path}: shape {_by(shape)}, expected sides of 2 to {LARGEST_SIDE} voxels")
    claimed, stored = claimed_bytes(header), path.stat().st_size
    if claimed > SUSPICIOUS_BYTES and claimed > MOST_TIMES_SMALLER * stored and ".hdr" not in path.suffixes:
        raise BadVolumeError(
            f"{path}: {stored} bytes that claim to hold {claimed}, expected at most {MOST_TIMES_SMALLER} times as many"
        )


def to_millimetres(image: nibabel.Nifti1Image) -> np.ndarray:
    """Returns the (4, 4) map from the affine's unit to millimetres.

    Some programs write another unit beside an affine in millimetres. The unit is therefore applied only if it gives
    voxels of a usual size, which the affine in millimetres then does not.
    """
    unit = int(image.header["xyzt_units"]) & 7 if isinstance(image.header, nibabel.Nifti1Header) else 0
    factor = _MILLIMETRES.get(unit, 1.0)
    smallest, largest = _USUAL_SIDES_MM
    if factor == 1 or image.affine is None or not np.all(np.isfinite(image.affine)):
        return np.eye(4)
    sides = factor * np.linalg.norm(image.affine[:3, :3], axis=0)
    counts = smallest <= sides.min() and sides.max() <= largest
    return np.diag([factor] * 3 + [1.0]) if counts else np.eye(4)


def check_orientation(image: nibabel.Nifti1Image, scale: np.ndarray, path: pathlib.Path) -> None:
    """Raises `BadVolumeError` unless an image's affine, scaled to millimetres, distinguishes left from right."""
    finite = image.affine is not None and np.all(np.isfinite(image.affine))
    if not finite or not _is_orientation(scale @ image.affine):
        limits = f"{SMALLEST_VOXEL_MM:g} to {LARGEST_VOXEL_MM:g} mm"
        raise BadVolumeError(f"{path}: its affine is no orientation, expected invertible, voxels of {limits}")
    is_nifti = isinstance(image, nibabel.Nifti1Pair)  # the base class of single files and of NIfTI-2 too
    if is_nifti and not (image.header["qform_code"] or image.header["sform_code"]):
        raise BadVolumeError(f"{path}: sform and qform codes are both 0, so left and right are unknown")
    if isinstance(image, nibabel.AnalyzeImage) and not is_nifti:
        raise BadVolumeError(f"{path}: {type(image).__name__} has no orientation, so left and right are unknown")
    if is_nifti and _mirrored(image):
        raise BadVolumeError(f"{path}: its sform and qform disagree about left and right, expected one orientation")


def _mirrored(image: nibabel.Nifti1Image) -> bool:
    """Returns whether sform and qform are both given and mirror each other. FSL refuses such images too."""
    try:
        forms = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    except (ValueError, HeaderDataError):  # rounding took the quaternion's length above 1
        return False
    if any(form is None or not _is_orientation(form) for form in forms):
        return False
    first, second = (np.linalg.det(form[:3, :3]) for form in forms)
    return bool(first * second < 0)


def _is_orientation(affine: np.ndarray) -> bool:
    if not np.all(np.isfinite(affine)):
        return False
    sides_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if sides_mm.min() < SMALLEST_VOXEL_MM or sides_mm.max() > LARGEST_VOXEL_MM or np.abs(affine[:3, 3]).max() > 1e5:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / sides_mm)) > 0.01)


def checked_values(array: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Returns the voxels with NaN set to 0 in the background and in a few voxels of the head.

    Raises:
      BadVolumeError: if voxels are infinite, too many voxels of the head are NaN, or all voxels are 0.
    """
    if not np.isfinite(array).all():
        array = _without_missing(array, path)
    if not (array != 0).any():
        raise BadVolumeError(f"{path}: every voxel is 0, expected an image")
    return array


def _without_missing(array: np.ndarray, path: pathlib.Path) -> np.ndarray:
    infinite = int(np.isinf(array).sum())
    if infinite:
        raise BadVolumeError(
            f"{path}: {infinite} of {array.size} voxels are infinite or beyond single precision, expected numbers"
        )
    missing = np.isnan(array)
    _check_missing(missing, array, path)
    return np.where(missing, np.float32(0), array)


def _check_missing(missing: np.ndarray, array: np.ndarray, path: pathlib.Path) -> None:
    """Raises `BadVolumeError` if too many voxels inside the head are NaN. NaN connected to the border is background."""
    if missing.all():
        raise BadVolumeError(f"{path}: {array.size} of {array.size} voxels are NaN, expected numbers")
    inside = int(np.count_nonzero(missing & ndimage.binary_fill_holes(~missing & (array != 0))))
    head = inside + int(np.count_nonzero(array[~missing]))
    if inside > MOST_NAN_INSIDE * head:
        raise BadVolumeError(
            f"{path}: {inside} of {head} voxels inside the head are NaN, expected numbers (NaN around it is background)"
        )


def _by(sides: Sequence[float] | np.ndarray) -> str:
    return "x".join(f"{side:g}" for side in sides)


def one_line(error: BaseException) -> str:
    """Returns an error's text in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
