"""Prepares the volumes of a cohort once, in parallel, and keeps them as records in the cache folder.

The work is done by threads rather than processes, since decompression and resampling release the interpreter's lock
(IXI to 4 mm: 15 ms a volume with one thread, 9 ms with two on two cores). Threads are also safe beside a JAX runtime
that is already up.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from eqpool.data.preflight.finding import Finding
from eqpool.data.volumes.alignment import VERSION as ALIGNMENT_VERSION
from eqpool.data.volumes.alignment import check_available, find_alignment
from eqpool.data.volumes.image_checks import BadVolumeError
from eqpool.data.volumes.image_files import read_volume
from eqpool.data.volumes.inputs import Grid, ImageFacts
from eqpool.data.volumes.overlap import check_overlap
from eqpool.data.volumes.read import VERSION, prepare_image
from eqpool.data.volumes.records import RecordedVolumes, link_dataset, write_shard
from eqpool.errors import InputError
from eqpool.storage.files import making_folder, one_process, read_json, write_json
from eqpool.storage.progress import track

FACTS_VERSION = 2  # raise it whenever the facts beside the records gain a field, so that volumes are prepared again
VOLUMES_A_SHARD = 16  # on average. An interruption loses one shard, and a changed file repeats one

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class PreparedVolumes:
    """Volumes ready for training.

    Attributes:
      inputs: (K, *grid.shape) float32, read from the cache row by row.
      kept: (K,) int64, indices of these volumes among the given paths, in order.
      notes: lines on the volumes that were left out.
      findings: warnings about volumes that do not lie on the template.
      overlap: (K,) float64, Dice coefficient of each image's non-zero voxels and the template's brain mask.
      tissue_mean, tissue_deviation: (K,) float64, mean and deviation by which each volume was z-scored, in the image's
        own units.
      alignment: (K, 4, 4) float64, maps from each image's millimetres to the template's; None without alignment.
    """

    inputs: RecordedVolumes
    kept: np.ndarray
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    overlap: np.ndarray
    tissue_mean: np.ndarray
    tissue_deviation: np.ndarray
    alignment: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The settings that a prepared volume depends on, besides its file.

    Attributes:
      grid: voxel grid.
      squash: whether to take the tanh of the z-scores.
      align: "affine" to register each volume to the template first, or "none".
      alignments: folder that keeps the maps of the registration for use with any grid, or None to keep none.
    """

    grid: Grid
    squash: bool = False
    align: str = "none"
    alignments: pathlib.Path | None = None

    def apply(self, path: pathlib.Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Reads one file and prepares its volume.

        Returns:
          The volume, and its facts in plain values: `overlap`, `tissue_mean` and `tissue_deviation` of `Tissue`,
          `is_part` of `Prepared`, and `alignment`, a list of lists or None.

        Raises:
          BadVolumeError: if the file is missing or damaged, or is not a head in the template's space.
        """
        image = read_volume(path)
        alignment = None if self.align == "none" else find_alignment(image, path, self.alignments)
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


class _Shard(NamedTuple):
    """Some of the paths, by index, and the `file` that holds their volumes. `facts` on each are in JSON beside it."""

    members: list[int]
    file: pathlib.Path

    @property
    def facts(self) -> pathlib.Path:
        return self.file.with_suffix(".json")


def prepare_volumes(
    paths: Sequence[pathlib.Path],
    preparation: Preparation,
    cache_dir: pathlib.Path,
    on_bad_volume: str = "stop",
    workers: int = 0,
    progress: bool = True,
    *,
    labels: Sequence[str] | None = None,
) -> PreparedVolumes:
    """Prepares every volume with `Preparation.apply`, unless the cache holds it already.

    Volumes are kept in shards of about `VOLUMES_A_SHARD`. A file's path decides its shard. A shard's key covers the
    paths, sizes and modification times of its files, the preparation and this code's version. An interrupted call
    resumes at the shard where it stopped. If a file is new or changes, only its own shard is prepared again.

    Args:
      paths: N image files.
      preparation: settings of the preparation.
      cache_dir: cache folder, created if needed.
      on_bad_volume: "stop" to raise at the first bad volume, or "skip" to leave it out with a note.
      workers: number of threads, 0 for one a core.
      progress: whether to show a bar on stderr if that is a terminal.
      labels: (N,) origins of the images, placed before a fault's text, such as "participants.tsv, line 3 (sub-1)".

    Raises:
      BadVolumeError: if a volume is bad and `on_bad_volume` is "stop".
      InputError: if no volume is left, the cache cannot be written, or its content is damaged.
    """
    if preparation.align != "none":
        check_available()
    paths = [pathlib.Path(path) for path in paths]
    labels = labels or [""] * len(paths)
    folder = pathlib.Path(cache_dir) / "volumes"
    preparation = dataclasses.replace(preparation, alignments=alignments_folder(cache_dir))
    shards = _shards(paths, preparation, folder / "shards")
    # Under "stop" a shard with a bad volume is not kept, since the file may be repaired before the next call.
    stop = on_bad_volume == "stop"
    if _missing(shards):
        with one_process(folder / f"shards-{_name_of(shards)}"):  # two runs on one cohort prepare it once
            _write_shards(_missing(shards), paths, labels, preparation, stop, workers, progress)
    facts = {index: fact for shard in shards for index, fact in zip(shard.members, _read_facts(shard), strict=True)}
    bad = {index: _said(labels[index], fact["bad"]) for index, fact in sorted(facts.items()) if fact["bad"]}
    if bad and stop:
        raise BadVolumeError(next(iter(bad.values())))
    if len(bad) == len(paths):
        raise InputError(f"none of {len(paths)} volumes can be used; the first: {next(iter(bad.values()))}")
    kept = np.array([index for index in range(len(paths)) if index not in bad], np.int64)
    overlap, mean, deviation = (
        np.array([facts[index][name] for index in kept], np.float64)
        for name in ("overlap", "tissue_mean", "tissue_deviation")
    )
    named = [(labels[index] or paths[index].name, facts[index]) for index in kept]
    return PreparedVolumes(
        _dataset(folder, shards, kept, set(bad), preparation.grid.shape),
        kept,
        tuple(f"left out: {reason}" for reason in bad.values()),
        tuple(check_overlap(named, preparation.align, "pooled.tsv, column mask_overlap, has it of every volume")),
        overlap,
        mean,
        deviation,
        None if preparation.align == "none" else np.array([facts[index]["alignment"] for index in kept], np.float64),
    )


def alignments_folder(cache_dir: pathlib.Path) -> pathlib.Path:
    """Returns the cache's folder for the maps of the registration."""
    return pathlib.Path(cache_dir) / "volumes" / "alignments"


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
                raise BadVolumeError(_said(labels[row], str(result)))
            else:
                leave_out(row, str(result))
                say(f"left out: {_said(labels[row], str(result))}")
        if not named:
            raise InputError(f"none of {len(paths)} volumes can be used; the last: {_said(labels[-1], str(result))}")
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


def _shards(paths: Sequence[pathlib.Path], preparation: Preparation, pool: pathlib.Path) -> list[_Shard]:
    """Divides the paths into a power of two of shards, so that files rarely move as a cohort grows."""
    count = 2 ** max(0, round(math.log2(max(1, len(paths)) / VOLUMES_A_SHARD)))
    members: list[list[int]] = [[] for _ in range(count)]
    digests = [preparation.digest() for _ in range(count)]
    for index, path in enumerate(paths):
        absolute = path.absolute()
        number = int.from_bytes(hashlib.sha256(str(absolute).encode()).digest()[:8], "big") % count
        file = absolute.stat() if os.path.isfile(absolute) else None  # Path.is_file raises if a name is too long
        members[number].append(index)
        digests[number].update(repr((str(absolute), file and (file.st_size, file.st_mtime_ns))).encode())
    return [
        _Shard(inside, pool / f"{digest.hexdigest()[:24]}.array_record")
        for inside, digest in zip(members, digests, strict=True)
        if inside
    ]


def _name_of(shards: Iterable[_Shard]) -> str:
    """Returns a name for these shards in this order, hashed from their own names."""
    return hashlib.sha256("".join(shard.file.name for shard in shards).encode()).hexdigest()[:24]


def _missing(shards: list[_Shard]) -> list[_Shard]:
    """Returns the shards that were never written, or were written with a fault that may have passed since."""
    return [shard for shard in shards if not shard.facts.is_file() or read_json(shard.facts).get("passing")]


def _write_shards(
    shards: list[_Shard],
    paths: Sequence[pathlib.Path],
    labels: Sequence[str],
    preparation: Preparation,
    stop: bool,
    workers: int,
    progress: bool,
) -> None:
    members = [paths[index] for shard in shards for index in shard.members]
    with in_parallel(
        preparation.attempt,
        members,
        workers=workers,
        progress=progress,
        label="Preparing volumes",
        total=len(members),
    ) as results:
        for shard in shards:
            facts: list[dict[str, Any]] = []

            def volumes(shard: _Shard = shard, facts: list[dict[str, Any]] = facts) -> Iterator[np.ndarray]:
                for index, result in zip(shard.members, results, strict=False):
                    if not isinstance(result, BadVolumeError):
                        volume, fact = result
                        facts.append(fact | {"bad": None})
                        yield volume
                    elif stop:
                        raise BadVolumeError(_said(labels[index], str(result)))
                    else:
                        facts.append({"bad": str(result), "passes": result.passes})

            write_shard(shard.file, volumes(), preparation.grid.shape)
            records = sum(fact["bad"] is None for fact in facts)
            passing = any(fact.get("passes") for fact in facts)
            write_json(shard.facts, {"records": records, "passing": passing, "volumes": facts})


def _read_facts(shard: _Shard) -> list[dict[str, Any]]:
    written: Any = read_json(shard.facts)
    try:
        facts = written["volumes"]
        sound = len(facts) == len(shard.members) and all(_is_fact(fact) for fact in facts) and shard.file.is_file()
        sound = sound and sum(not fact["bad"] for fact in facts) == written["records"]
    except (KeyError, TypeError, ValueError, OverflowError):
        sound = False
    if not sound:
        raise InputError(f"{shard.facts}: damaged; remove it and its volumes are prepared again")
    return facts


def _is_fact(fact: Any) -> bool:
    """Returns whether `fact` is as `_write_shards` writes it, or raises an error that `_read_facts` catches."""
    if fact["bad"] is not None:
        return isinstance(fact["bad"], str) and bool(fact["bad"])
    alignment = fact["alignment"]
    aligned = alignment is None or (np.shape(alignment) == (4, 4) and np.isfinite(np.array(alignment, float)).all())
    numbers = [fact[name] for name in ("overlap", "tissue_mean", "tissue_deviation")]
    sound = all(isinstance(number, float) and math.isfinite(number) for number in numbers)
    return sound and isinstance(fact["is_part"], bool) and bool(aligned)


def _dataset(
    folder: pathlib.Path, shards: list[_Shard], kept: np.ndarray, bad: set[int], shape: tuple[int, ...]
) -> RecordedVolumes:
    """Links the data set of the shards that hold a good volume, and returns its kept rows."""
    good = [[index for index in shard.members if index not in bad] for shard in shards]
    used = [(shard, inside) for shard, inside in zip(shards, good, strict=True) if inside]
    final = folder / _name_of(shard for shard, _ in used)
    with making_folder(final) as partial:
        if partial is not None:
            link_dataset(partial, [shard.file for shard, _ in used], [len(inside) for _, inside in used], shape)
    recorded = np.concatenate([inside for _, inside in used])
    order = np.empty(recorded.max() + 1, np.int64)
    order[recorded] = np.arange(len(recorded))
    return RecordedVolumes(final, order[kept], shape)


def _said(label: str, reason: str) -> str:
    return f"{label}: {reason}" if label else reason


@contextlib.contextmanager
def in_parallel(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, progress: bool, label: str, total: int
) -> Iterator[Iterator[Result]]:
    """Yields an iterator over the results of a function on items, in order, from a few threads.

    At most two items a worker are in progress or finished but not yet taken, so that memory stays bounded. A bare
    iterator that is dropped half-way would be closed by the garbage collector, which may run in one of the iterator's
    own threads, and a thread cannot wait for itself. This is therefore a context manager.

    Args:
      function: function to call on each item.
      items: its arguments.
      workers: number of threads, 0 for one a core.
      progress: whether to show a progress bar if stderr is a terminal.
      label: text of the progress bar.
      total: number of items.
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
