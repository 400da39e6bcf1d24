"""Prepares single images as a config asks: reads, aligns, resamples and z-scores them, and collects their facts."""

import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from eqpool.data.volumes.alignment import VERSION as ALIGNMENT_VERSION
from eqpool.data.volumes.alignment import Register, find_alignment
from eqpool.data.volumes.image_checks import BadVolumeError
from eqpool.data.volumes.image_files import read_volume
from eqpool.data.volumes.inputs import Grid, ImageFacts
from eqpool.data.volumes.overlap import check_overlap
from eqpool.data.volumes.parallel import in_parallel
from eqpool.data.volumes.read import VERSION, prepare_image
from eqpool.errors import InputError

FACTS_VERSION = 2  # raise it whenever the facts beside the records gain a field, so that volumes are prepared again


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The settings that a prepared volume depends on, besides its file.

    Attributes:
      grid: voxel grid.
      squash: whether to take the tanh of the z-scores.
      align: "affine" to register each volume to the template first, "none", or for `prepare_volumes` "auto", which
        stands for one of the two.
      alignments: folder that keeps the maps of the registration for use with any grid, or None to keep none.
      register: computes the map of an image, None for `eqpool.data.volumes.alignment.align_to_template`.
    """

    grid: Grid
    squash: bool = False
    align: str = "none"
    alignments: pathlib.Path | None = None
    register: Register | None = None

    def apply(self, path: pathlib.Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Reads one file and prepares its volume.

        Returns:
          The volume, and its facts in plain values: `overlap`, `tissue_mean` and `tissue_deviation` of `Tissue`,
          `is_part` of `Prepared`, and `alignment`, a list of lists or None.

        Raises:
          BadVolumeError: if the file is missing or damaged, or is not a head in the template's space.
        """
        image = read_volume(path)
        alignment = None if self.align == "none" else find_alignment(image, path, self.alignments, self.register)
        made = prepare_image(image, path, self.grid, squash=self.squash, alignment=alignment)
        return made.volume, {
            "overlap": made.tissue.overlap,
            "tissue_mean": made.tissue.mean,
            "tissue_deviation": made.tissue.deviation,
            "is_part": made.is_part,
            "alignment": None if alignment is None else alignment.tolist(),
        }

    def attempt(self, path: pathlib.Path) -> "tuple[np.ndarray, dict[str, Any]] | BadVolumeError":
        """Returns the result of `apply`, or the error that it raised."""
        try:
            return self.apply(path)
        except BadVolumeError as error:
            return error

    def digest(self) -> "hashlib._Hash":
        """Returns a SHA-256 over these settings and this code's versions, to be updated further."""
        digest = hashlib.sha256()
        said = (VERSION, FACTS_VERSION, self.squash, self.align, self.grid.shape, self.grid.affine.tolist())
        digest.update(repr(said if self.align == "none" else (*said, ALIGNMENT_VERSION)).encode())
        digest.update(self.grid.mask.tobytes())
        return digest


class PreparedScan(NamedTuple):
    """A prepared volume that is not kept in the cache.

    Attributes:
      row: index of its row in the table.
      volume: `grid.shape` float32.
      facts: facts of its image.
    """

    row: int
    volume: np.ndarray
    facts: ImageFacts


@contextlib.contextmanager
def preparing(
    paths: Sequence[pathlib.Path],
    preparation: Preparation,
    labels: Sequence[str],
    on_bad_volume: str,
    workers: int,
    say: Callable[[str], None],
    leave_out: Callable[[int, str], None] = lambda row, reason: None,
) -> Iterator[Iterator[PreparedScan]]:
    """Yields an iterator over the volumes that `prepare_volumes` would keep, in order, without keeping them.

    A few volumes are in memory at a time. Under `on_bad_volume` "skip", `say` gets a line for each volume that is left
    out, and `leave_out` gets its row and the reason. At the end, `say` gets a line on the volumes that overlap the
    brain mask badly.

    Raises:
      BadVolumeError: if a volume is bad and `on_bad_volume` is "stop".
      InputError: if no volume can be used.
    """

    def usable(results: Iterator[Any]) -> Iterator[PreparedScan]:
        named: list[tuple[str, dict[str, Any]]] = []
        for row, result in enumerate(results):
            if not isinstance(result, BadVolumeError):
                volume, fact = result
                named.append((labels[row] or paths[row].name, fact))
                yield PreparedScan(row, volume, _image_facts(fact))
            elif on_bad_volume == "stop":
                raise BadVolumeError(labelled(labels[row], str(result)))
            else:
                leave_out(row, str(result))
                say(f"left out: {labelled(labels[row], str(result))}")
        if not named:
            raise InputError(f"none of {len(paths)} volumes can be used; the last: {labelled(labels[-1], str(result))}")
        for finding in check_overlap(named, preparation.align):
            say(f"{finding.severity}: {finding.message}")

    with in_parallel(
        preparation.attempt, paths, workers=workers, progress=False, label="", total=len(paths)
    ) as results:
        yield usable(results)


def _image_facts(fact: dict[str, Any]) -> ImageFacts:
    """Converts the plain values of `Preparation.apply`."""
    alignment = None if fact["alignment"] is None else np.array(fact["alignment"])
    return ImageFacts(fact["tissue_mean"], fact["tissue_deviation"], alignment, fact["overlap"])


def alignments_folder(cache_dir: pathlib.Path) -> pathlib.Path:
    """Returns the cache's folder for the maps of the registration."""
    return pathlib.Path(cache_dir) / "volumes" / "alignments"


def labelled(label: str, reason: str) -> str:
    """Returns the reason behind the label of its image, if it has one."""
    return f"{label}: {reason}" if label else reason
