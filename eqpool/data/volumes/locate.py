"""Finds each row's image in BIDS layout or through a `path` column."""

import glob
import os
import pathlib

from eqpool.data.tables.participants import ID_COLUMN, LONGEST_NAME, ParticipantsTable, session_column
from eqpool.data.volumes.file_kinds import is_leftover
from eqpool.errors import InputError

SUFFIXES = ("_T1w.nii.gz", "_T1w.nii")


def find_images(table: ParticipantsTable, root: pathlib.Path, *, outside_root: str = "refuse") -> list[pathlib.Path]:
    """Finds one image for each row.

    A `path` column holds paths relative to `root`. They must not leave `root` unless `outside_root` is "allow". Without
    this column, images are `<root>/<participant_id>[/ses-*]/anat/*_T1w.nii[.gz]`, and a session column narrows the
    choice. Hidden and temporary files, such as macOS's `._sub-01_T1w.nii.gz`, are ignored.

    Raises:
      InputError: if `root` is no folder, a path lies outside `root`, a row has several images, or several rows share
        one. A missing image is reported when it is read, so that `config.data.on_bad_volume` applies to it.
    """
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder (config.data.root, by default the folder of config.data.participants)"
        )
    rows = range(len(table.frame))
    named = "path" in table.frame
    images = [_named(table, row, root, outside_root) if named else _in_bids(table, row, root) for row in rows]
    first: dict[str, int] = {}
    for row, image in enumerate(images):
        before = first.setdefault(_resolved(image), row)
        if before != row:
            twice = f"its image {image.name} is that of line {table.line[before]} too"
            raise InputError(f"{table.where(row)}: {twice}, expected one row a scan")
    return images


def _resolved(image: pathlib.Path) -> str:
    """Returns the file that a path leads to. A path that no file can have is kept, and reported when it is read."""
    try:
        return os.path.realpath(image)
    except (OSError, ValueError):
        return str(image)


def _named(table: ParticipantsTable, row: int, root: pathlib.Path, outside_root: str) -> pathlib.Path:
    text = table.frame["path"].iloc[row]
    if not text:
        raise InputError(f"{table.where(row, 'path')}: missing, expected an image relative to {root}")
    # Paths are compared as written, so that a data set may link to its own store elsewhere.
    path = os.path.normpath(os.path.join(root, text))
    inside = os.path.commonpath([os.path.abspath(path), os.path.abspath(root)]) == os.path.abspath(root)
    if not inside and outside_root != "allow":
        raise InputError(
            f'{table.where(row, "path")}: "{text}" leaves {root}, expected an image inside it (or outside_root = allow)'
        )
    return pathlib.Path(path)


def _in_bids(table: ParticipantsTable, row: int, root: pathlib.Path) -> pathlib.Path:
    name = table.frame[ID_COLUMN].iloc[row]
    column = session_column(table)
    session = table.frame[column].iloc[row] if column else ""
    if "/" in session or session == ".." or len(session.encode("utf-8", "replace")) > LONGEST_NAME:
        raise InputError(f'{table.where(row, column or "")}: "{session}", expected a short name without slashes')
    folder = name if name.startswith("sub-") else f"sub-{name}"
    if not (root / folder).is_dir() and (root / name).is_dir():
        folder = name
    label = session.removeprefix("ses-")
    patterns = [f"ses-{glob.escape(label)}/anat"] if session else ["anat", "ses-*/anat"]
    found: list[pathlib.Path] = []
    for pattern in patterns:
        for suffix in SUFFIXES:
            there = (root / folder).glob(f"{pattern}/*{suffix}")
            found += sorted(path for path in there if not is_leftover(path.name))
    if len(found) > 1:
        raise InputError(
            f"{table.where(row)}: {len(found)} images (such as {found[0].name} and {found[1].name}), "
            "expected one; distinguish them by a session_id column or name them in a path column"
        )
    return found[0] if found else root / folder / patterns[0] / f"{folder}_T1w.nii.gz"
