"""Rescans real brains with a SIMULATED second scanner: a known transform on half of a cohort's subjects.

The effect of harmonisation can then be measured on real anatomy against the original images (`python -m
eqpool.commands.rescan`). The images stay on their own grid. The site column becomes "<site>" or "simulated_scanner", so
that every table and figure marks the simulation.
"""

import functools
import os
import pathlib

import nibabel
import numpy as np

from eqpool.data.sources.simulated_anatomy import Canvas
from eqpool.data.sources.simulated_scanner import Scanner, coil_field, scan
from eqpool.data.tables.participants import ID_COLUMN, ParticipantsTable, parse_numbers, read_participants
from eqpool.data.volumes.image_files import read_volume
from eqpool.data.volumes.inputs import Grid
from eqpool.data.volumes.locate import find_images
from eqpool.data.volumes.parallel import in_parallel
from eqpool.errors import InputError
from eqpool.storage.files import making_folder, write_json

SITE = "simulated_scanner"
SCANNER = Scanner(gamma=1.3, grey_shift=0.04, bias=0.08, coil_seed=21, blur_mm=1.2, noise=0.03, gain=420.0)
_WHITE_PERCENTILE = 98.0  # of the brain's intensities: about the level of white matter, below that of artefacts


def rescan_cohort(
    participants: pathlib.Path,
    output: pathlib.Path,
    *,
    scanner: Scanner = SCANNER,
    seed: int = 0,
    shift: str = "",
    progress: bool = True,
) -> pathlib.Path:
    """Writes a BIDS folder in which every second subject was scanned again by a simulated scanner.

    Args:
      participants: participants.tsv of skull-stripped T1 volumes in BIDS layout or under `path`, with background 0.
      output: folder that does not exist yet.
      scanner: mean settings of the simulated scanner, about which each scan varies.
      seed: seed of the choice of subjects and of every scan.
      shift: column of numbers in which the halves are to differ, as populations do, or "" to draw subjects alike.
      progress: whether to show a bar on stderr if that is a terminal.

    Returns:
      The new participants.tsv. Its column `original_site` holds the former values of `site`.

    Raises:
      InputError: if the output exists, a table or volume cannot be used, or a volume has no background.
    """
    if output.exists():
        raise InputError(f"--output={output}: it exists already, expected a new folder")
    table = read_participants(participants)
    table.require("site", "site")
    images = find_images(table, participants.parent)
    places = [_place(image, participants.parent) for image in images]
    again = _chosen(table, seed, shift)

    frame = table.frame.replace("", "n/a")
    if "path" in frame:
        frame["path"] = [place.as_posix() for place in places]
    frame["original_site"] = frame["site"]
    frame["site"] = np.where(again, SITE, frame["site"])
    description = {
        "Name": f"Real images, half of them with a SIMULATED second scanner, from {participants.parent.name}",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "eqpool.data.sources.rescanned", "Description": repr(scanner)}],
    }

    def make(folder: pathlib.Path, row: int) -> None:
        image = read_volume(images[row])
        if again[row]:
            random = np.random.default_rng((seed, row))
            image = nibabel.Nifti1Image(rescan(image, scanner, random, images[row]), image.affine)
        path = folder / places[row]
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(image, path)

    def write(folder: pathlib.Path) -> None:
        rows, one = range(len(images)), functools.partial(make, folder)
        with in_parallel(one, rows, workers=0, progress=progress, label="Scanning again", total=len(images)) as made:
            for _ in made:
                pass
        write_json(folder / "dataset_description.json", description)
        frame.to_csv(folder / "participants.tsv", sep="\t", index=False)

    with making_folder(output) as partial:
        if partial is not None:
            write(partial)
    return output / "participants.tsv"


def _place(image: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Returns an image's path relative to the old folder, also if either is given through a link.

    The image keeps this relative path in the new folder.
    """
    for form in (os.path.abspath, os.path.realpath):
        place = pathlib.Path(form(image))
        if place.is_relative_to(form(root)):
            return place.relative_to(form(root))
    raise InputError(f"{image}: not inside {root}, expected every image there")


def rescan(
    image: nibabel.Nifti1Image, scanner: Scanner, random: np.random.Generator, path: pathlib.Path | str = "image"
) -> np.ndarray:
    """Simulates a scan of a real brain, (shape of `image`) float32, 0 outside the brain.

    Args:
      image: skull-stripped image. Its intensities are first divided by the level of white matter.
      scanner: mean settings of the scanner.
      random: source of this scan's variation.
      path: path for messages.

    Raises:
      InputError: if the image has no background of zeros and so is not skull-stripped.
    """
    values = np.asarray(image.dataobj, np.float32)
    brain = values > 0
    if brain.all():
        raise InputError(f"{path}: no voxel is 0, expected a skull-stripped image")
    first, second, third = values.shape
    canvas = Canvas(Grid("image", (first, second, third), image.affine, brain))
    white = np.percentile(values[brain], _WHITE_PERCENTILE)
    truth = np.clip(np.maximum(values, 0) / white, 0, 1)[canvas.near]
    return scan(truth, canvas, scanner, coil_field(canvas, scanner), random)


def _chosen(table: ParticipantsTable, seed: int, shift: str) -> np.ndarray:
    """Returns the rows of half of the people, (N,) bool, drawn at random. A person's sessions stay together.

    With `shift`, people are ranked by that column plus noise of the same standard deviation. The halves' means then
    differ by about 1.1 deviations, and both halves hold people of any value.
    """
    names, first, of_row = np.unique(
        table.frame[ID_COLUMN].to_numpy(dtype=np.str_), return_index=True, return_inverse=True
    )
    random = np.random.default_rng(seed)
    if not shift:
        order = random.permutation(len(names))
    else:
        table.require(shift, "--shift")
        value = parse_numbers(table, shift)[first]
        if not np.isfinite(value).all():
            row = first[np.flatnonzero(~np.isfinite(value))[0]]
            raise InputError(f"{table.where(row, shift)}: missing, expected a number of everyone for --shift={shift}")
        if not value.std():
            raise InputError(f"{table.path}, column {shift}: one value, expected several for --shift={shift}")
        order = np.argsort(-(value + random.normal(size=len(names)) * value.std()))
    return np.isin(of_row, order[: len(names) // 2])
