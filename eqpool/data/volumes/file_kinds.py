"""Recognises leftovers and files that only stand in for an image, by their names and first bytes."""

import os
import pathlib

GZIP = b"\x1f\x8b"
START_BYTES = 540  # inspected at a file's start: the length of NIfTI-2's header, the longest that begins with its size

_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".tmp", ".temp", ".swp", ".bak", "~")
_POINTERS = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the image; run git lfs pull"),
    (b"/annex/objects/", "a git-annex pointer, not the image; run git annex get"),
    (b"\x00\x05\x16\x07", "a file of macOS beside an image (AppleDouble), not the image"),
)
_OTHER_KINDS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"NRRD", "an NRRD image"),
    (b"\x89HDF", "an HDF5 file"),
    (b"CDF", "a NetCDF file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF"),
    (b"{", "a JSON text"),
    (b"\x00\x00\x00\x01\x00", "a FreeSurfer image, whose name should end in .mgz or .mgh"),
    (GZIP, "a file that was compressed twice"),
)
_MARKUP = (b"<!doctype html", b"<html", b"<?xml", b"<head")


def is_leftover(name: str) -> bool:
    """Returns whether a file of this name is hidden, or was left behind by an editor or a download.

    Hidden files are such as macOS's `._sub-01_T1w.nii.gz` and `.DS_Store`. Leftovers end in `.part`, `.tmp`, `~` etc.
    """
    return name.startswith((".", "~", "#")) or name.lower().endswith(_UNFINISHED)


def why_not_there(path: pathlib.Path) -> str:
    """Describes a path that leads to no file: a folder, a link without its target, or nothing."""
    try:
        if os.path.isdir(path):
            return "a folder, expected an image"
        target = os.readlink(path) if os.path.islink(path) else ""
    except (OSError, ValueError):  # no file can have this name
        target = ""
    if "annex/objects" in target.replace(os.sep, "/"):
        return "a git-annex link whose image is not here; run git annex get (or datalad get)"
    return f"a link to {target}, which is not there" if target else "no such image"


def stands_in_for_image(path: pathlib.Path, start: bytes) -> str:
    """Describes a file that is certainly not an image, by its name or first bytes. Returns "" for other files.

    Args:
      path: path of the file, for its name only.
      start: first `START_BYTES` bytes of the file.
    """
    ending = next((ending for ending in _UNFINISHED if path.name.lower().endswith(ending)), "")
    if ending:
        return f"an unfinished or temporary file ({ending}), expected an image"
    if not start:
        return "not a readable image: the file is empty"
    if not any(start) and path.name.lower().endswith((".nii", ".nii.gz")):
        return f"not a readable image: its first {len(start)} bytes are 0; was its download or copy cut off?"
    return next((said for magic, said in _POINTERS if start.startswith(magic)), "")


def other_kind(start: bytes) -> str:
    """Returns the kind of a file that is not NIfTI, such as "a zip archive", or "" if it may be an image."""
    if start[128:132] == b"DICM":
        return "a DICOM file; convert the series by dcm2niix"
    if start[257:262] == b"ustar":
        return "a tar archive"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_MARKUP):
        return "a web page or XML text (did its download need a login?)"
    return next((said for magic, said in _OTHER_KINDS if start.startswith(magic)), "")
