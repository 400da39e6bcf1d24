"""Reads one image file as float32, in the format of its content. Each fault is reported in one line."""

import contextlib
import gzip
import os
import pathlib
from collections.abc import Callable
from typing import IO, Any, cast

import nibabel
import numpy as np
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError

from eqpool.data.volumes.file_kinds import GZIP, START_BYTES, other_kind, stands_in_for_image, why_not_there
from eqpool.data.volumes.image_checks import (
    UNREADABLE,
    BadVolumeError,
    check_header,
    check_orientation,
    check_start,
    checked_values,
    claimed_bytes,
    kind_of,
    one_line,
    to_millimetres,
    unreadable,
)

_MOST_BESIDE = 2**24  # limit in bytes for header extensions, and for data after the image


def read_volume(path: pathlib.Path) -> nibabel.Nifti1Image:
    """Reads a 3D image in RAS+ orientation, float32, with the header's scale slope and intercept applied.

    Raises:
      BadVolumeError: for the faults that `read_image` lists.
    """
    return to_ras(read_image(path), path)


def to_ras(image: nibabel.Nifti1Image, path: pathlib.Path) -> nibabel.Nifti1Image:
    """Flips and permutes an image's axes to the closest RAS+ orientation.

    Raises:
      BadVolumeError: if the affine gives no orientation. `path` starts the message.
    """
    try:
        return nibabel.as_closest_canonical(image)
    except OrientationError as error:
        raise BadVolumeError(f"{path}: its affine gives no orientation ({one_line(error)})") from error


def read_image(path: pathlib.Path) -> nibabel.Nifti1Image:
    """Reads a 3D image as float32, with its axes untouched and scale slope and intercept applied.

    The content decides how a file is read, so an uncompressed NIfTI file named .nii.gz is read, and so is a compressed
    one named .nii. NaN around the head, as SPM writes it, is background and becomes 0. A few NaN inside the head become
    0 too. An affine that the header gives in metres or microns is converted to millimetres.

    Raises:
      BadVolumeError: if the file is missing, not an image, truncated or not three-dimensional, has an absurd size, no
        orientation, infinite voxels or NaN in more than `MOST_NAN_INSIDE` of the head, or is all zero.
    """
    image = _open(path)
    check_header(image.header, path)
    scale = to_millimetres(image)
    check_orientation(image, scale, path)
    try:
        with np.errstate(all="ignore"):  # values that overflow become infinite and are refused below
            array = np.asanyarray(image.dataobj, dtype=np.float32)
    except UNREADABLE as error:
        raise unreadable(f"{path}: the image data cannot be read", error) from error
    array = checked_values(array.reshape(array.shape[:3]), path)
    plain = nibabel.Nifti1Image(array, scale @ image.affine)
    if isinstance(image, nibabel.Nifti1Pair):  # the form codes name the affine's space: scanner, template, ...
        _copy_form(plain.set_sform, image.get_sform, scale)
        with contextlib.suppress(ValueError, HeaderDataError):  # rounding took the quaternion above 1
            _copy_form(plain.set_qform, image.get_qform, scale)
    return plain


def _copy_form(write: Callable[..., None], read: Callable[..., Any], scale: np.ndarray) -> None:
    affine, code = read(coded=True)
    write(None if affine is None else scale @ affine, code)


def _open(path: pathlib.Path) -> nibabel.Nifti1Image:
    if not os.path.isfile(path):  # Path.is_file raises if a name is too long
        raise BadVolumeError(f"{path}: {why_not_there(path)}")
    try:
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
        if said := stands_in_for_image(path, start):
            raise BadVolumeError(f"{path}: {said}")
        if path.name.lower().endswith((".nii", ".nii.gz")):
            image = _open_nifti(path, start)
        else:
            _check_other_name(path, start)
            image = cast(nibabel.Nifti1Image, nibabel.load(path))
    except BadVolumeError:
        raise
    except UNREADABLE as error:
        raise unreadable(f"{path}: not a readable image", error) from error
    if not isinstance(image, nibabel.spatialimages.SpatialImage):
        raise BadVolumeError(f"{path}: {type(image).__name__}, expected a volume")
    return image  # nibabel's other formats share the interface


def _open_nifti(path: pathlib.Path, start: bytes) -> nibabel.Nifti1Image:
    """Opens a compressed or uncompressed NIfTI file, whether its name ends in .nii or in .nii.gz."""
    if start.startswith(GZIP):
        with gzip.open(path) as file:
            return _read_whole(path, file)
    check_start(path, start)
    if path.name.lower().endswith(".nii"):
        return cast(nibabel.Nifti1Image, nibabel.load(path))
    with open(path, "rb") as file:
        return _read_whole(path, file)


def _check_other_name(path: pathlib.Path, start: bytes) -> None:
    """Raises `BadVolumeError` for a web page or archive under an image's name, and for a lone .hdr or .img."""
    kind = other_kind(start)
    if kind.startswith(("a web page", "a zip")) and path.suffix.lower() in (".hdr", ".img", ".mgz", ".mgh"):
        raise BadVolumeError(f"{path}: {kind}, expected an image")
    other = {".hdr": ".img", ".img": ".hdr"}.get(path.suffix.lower())
    partners = [path.with_suffix(ending) for ending in (other, f"{other}.gz", other.upper())] if other else []
    if partners and not any(partner.is_file() for partner in partners):
        raise BadVolumeError(f"{path}: half of a pair, {partners[0].name} is not beside it")


def _read_whole(path: pathlib.Path, file: IO[bytes] | gzip.GzipFile) -> nibabel.Nifti1Image:
    """Reads a NIfTI file to its end, where gzip's checksum is. `nibabel.load` stops after the last voxel.

    Memory for the voxels is allocated only once the header is found plausible, and never more than it announces.
    """
    start = file.read(nibabel.Nifti2Header.sizeof_hdr)
    check_start(path, start, "inside its compression ")
    kind = kind_of(start)
    header = kind.header_class(start[: kind.header_class.sizeof_hdr])
    check_header(header, path)
    offset = int(header["vox_offset"])
    if not 0 <= offset <= _MOST_BESIDE:
        raise BadVolumeError(f"{path}: its voxels start at byte {offset}, expected at most {_MOST_BESIDE}")
    end = offset + claimed_bytes(header)
    content = start + file.read(max(0, end - len(start)))
    if len(content) < end:
        raise BadVolumeError(f"{path}: {len(content)} bytes uncompressed, expected {end}; is it truncated?")
    if len(file.read(_MOST_BESIDE)) == _MOST_BESIDE:  # reading to the end also verifies the checksum
        raise BadVolumeError(f"{path}: goes on for {_MOST_BESIDE} bytes and more after its image")
    return cast(nibabel.Nifti1Image, kind.from_bytes(content))
