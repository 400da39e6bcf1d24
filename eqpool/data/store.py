"""The prepared volumes of a cohort as one memory map, built once in parallel and kept under the cache folder.

Threads and not processes: decompression and resampling release the interpreter's lock (IXI to 4 mm: 15 ms a volume
with one thread, 9 ms with two on two cores), and threads are safe beside a JAX runtime that is already up.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from eqpool.data.alignment import align_to_template, check_available
from eqpool.data.cohort import Grid
from eqpool.data.volumes import ALIGNED_OVERLAP, BadVolumeError, prepare_volume, read_volume
from eqpool.errors import InputError
from eqpool.files import allocate_array, making_folder, read_json, write_json
from eqpool.progress import track

VERSION = 2  # raise it whenever a prepared volume would come out different
_MOST_NAMED = 5

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class PreparedVolumes:
    """Volumes ready for training.

    Attributes:
      inputs: (K, *grid.shape) float32, a read-only memory map.
      kept: (K,) int64, which of the given paths these are, in order.
      notes: what was left out or looked odd.
      alignment: (K, 4, 4) float64, each image's millimetres to the template's; (0, 4, 4) where none was asked for.
    """

    inputs: np.ndarray
    kept: np.ndarray
    notes: tuple[str, ...]
    alignment: np.ndarray


def prepare_volumes(
    paths: Sequence[pathlib.Path],
    grid: Grid,
    cache_dir: pathlib.Path,
    on_bad_volume: str = "stop",
    workers: int = 0,
    progress: bool = True,
    *,
    labels: Sequence[str] | None = None,
    squash: bool = False,
    align: str = "none",
) -> PreparedVolumes:
    """Prepares every volume (`volumes.prepare_volume`), or finds them prepared already.

    The cache's key holds each file's path, size and time of change, the grid and this code's version; the folder
    appears under its name when it is complete, so that a killed run leaves nothing half-made in its place.

    Args:
      paths: N image files.
      grid: the voxel grid.
      cache_dir: created where needed.
      on_bad_volume: "stop" raises at the first bad volume; "skip" leaves it out with a note.
      workers: threads; 0: one a core.
      progress: a bar on stderr, where that is a terminal.
      labels: (N,) where each image comes from, set before a fault's text, such as "participants.tsv, line 3 (sub-1)".
      squash: tanh of the z-scores.
      align: "affine" registers each volume to the template first.

    Raises:
      BadVolumeError: a bad volume, under "stop".
      InputError: no volume is left, the cache cannot be written, or what it holds is damaged.
    """
    labels = labels or [""] * len(paths)
    if align != "none":
        check_available()
    final = pathlib.Path(cache_dir) / "volumes" / _key(paths, grid, on_bad_volume, squash, align)
    with making_folder(final) as partial:
        if partial is not None:
            _build(paths, labels, grid, partial, on_bad_volume, workers, progress, squash, align)
    return _read(final)


def _read(folder: pathlib.Path) -> PreparedVolumes:
    facts = read_json(folder / "volumes.json")
    try:
        inputs = np.load(folder / "volumes.npy", mmap_mode="r", allow_pickle=False)
        kept, alignment = np.array(facts["kept"], np.int64), np.array(facts["alignment"], np.float64).reshape(-1, 4, 4)
        return PreparedVolumes(inputs[: len(kept)], kept, tuple(facts["notes"]), alignment)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: damaged ({error}); remove it and it is prepared again") from error


@contextlib.contextmanager
def in_parallel(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, progress: bool, label: str, total: int
) -> Iterator[Iterator[Result]]:
    """Within it: results in the order of the items, from a few threads, with a progress bar on a terminal.

    At most two items a worker are under way or finished and not yet taken, so that memory stays bounded. It is a
    context, and not an iterator alone, because an iterator that is dropped half-way closes when the garbage collector
    comes by, which may be in one of its own threads; and a thread cannot wait for itself.
    """
    workers = workers or os.cpu_count() or 1
    remaining = iter(items)
    bar = track((), label, unit="volume", total=total, leave=True, wanted=progress)
    with ThreadPoolExecutor(workers) as executor, bar:
        pending = [executor.submit(function, item) for _, item in zip(range(2 * workers), remaining, strict=False)]

        def results() -> Iterator[Result]:
            while pending:
                result = pending.pop(0).result()
                pending.extend(executor.submit(function, item) for _, item in zip(range(1), remaining, strict=False))
                bar.update()
                yield result

        try:
            yield results()
        finally:
            for future in pending:
                future.cancel()


def _build(
    paths: Sequence[pathlib.Path],
    labels: Sequence[str],
    grid: Grid,
    folder: pathlib.Path,
    on_bad_volume: str,
    workers: int,
    progress: bool,
    squash: bool,
    align: str,
) -> None:
    def prepare(index: int) -> tuple[np.ndarray, float, np.ndarray | None] | BadVolumeError:
        try:
            alignment = find_alignment(pathlib.Path(paths[index]), align)
            return *prepare_volume(pathlib.Path(paths[index]), grid, squash=squash, alignment=alignment), alignment
        except BadVolumeError as error:
            return BadVolumeError(f"{labels[index]}: {error}" if labels[index] else str(error))

    output = allocate_array(folder / "volumes.npy", (len(paths), *grid.shape))
    kept: list[int] = []
    left_out: list[str] = []
    apart: list[str] = []
    alignments: list[list[list[float]]] = []
    with in_parallel(
        prepare, range(len(paths)), workers=workers, progress=progress, label="Preparing volumes", total=len(paths)
    ) as results:
        for index, result in enumerate(results):
            if isinstance(result, BadVolumeError):
                if on_bad_volume == "stop":
                    raise result
                left_out.append(str(result))
                continue
            volume, overlap, alignment = result
            output[len(kept)] = volume
            kept.append(index)
            if alignment is not None:
                alignments.append(alignment.tolist())
            if overlap < ALIGNED_OVERLAP:
                apart.append(f"{paths[index].name} {overlap:.2f}")
    if not kept:
        raise InputError(f"none of {len(paths)} volumes can be used; the first: {left_out[0]}")
    output.flush()
    facts = {"kept": kept, "notes": _notes(left_out, apart), "alignment": alignments}
    write_json(folder / "volumes.json", facts)


def find_alignment(path: pathlib.Path, align: str) -> np.ndarray | None:
    """The affine map from an image's millimetres to the template's, (4, 4); None for `align` "none"."""
    return None if align == "none" else align_to_template(read_volume(path))


def _notes(left_out: list[str], apart: list[str]) -> list[str]:
    notes = [f"left out: {reason}" for reason in left_out]
    if apart:
        named = ", ".join(apart[:_MOST_NAMED]) + (", ..." if len(apart) > _MOST_NAMED else "")
        notes.append(
            f"{len(apart)} volumes overlap the template's brain mask by a Dice below {ALIGNED_OVERLAP:g}, so they are "
            f"not aligned or not skull-stripped (config.data.align = affine aligns): {named}"
        )
    return notes


def _key(paths: Sequence[pathlib.Path], grid: Grid, on_bad_volume: str, squash: bool, align: str) -> str:
    digest = hashlib.sha256()
    digest.update(repr((VERSION, on_bad_volume, squash, align, grid.shape, grid.affine.tolist())).encode())
    digest.update(grid.mask.tobytes())
    for path in paths:
        absolute = pathlib.Path(path).absolute()
        facts = absolute.stat() if absolute.is_file() else None
        digest.update(repr((str(absolute), facts and (facts.st_size, facts.st_mtime_ns))).encode())
    return digest.hexdigest()[:24]
