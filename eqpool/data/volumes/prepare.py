"""Prepares the volumes of a cohort once, in parallel, and keeps them as records in the cache folder."""

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from eqpool.data.preflight.finding import Finding
from eqpool.data.volumes.align_choice import choose_alignment
from eqpool.data.volumes.image_checks import BadVolumeError
from eqpool.data.volumes.overlap import check_overlap
from eqpool.data.volumes.parallel import in_parallel
from eqpool.data.volumes.preparation import Preparation, alignments_folder, labelled
from eqpool.data.volumes.records import RecordedVolumes, link_dataset, write_shard
from eqpool.errors import InputError
from eqpool.storage.files import making_folder, one_process, read_json, write_json

VOLUMES_A_SHARD = 16  # on average. An interruption loses one shard, and a changed file repeats one


@dataclasses.dataclass(frozen=True)
class PreparedVolumes:
    """Volumes ready for training.

    Attributes:
      inputs: (K, *grid.shape) float32, read from the cache row by row.
      kept: (K,) int64, indices of these volumes among the given paths, in order.
      notes: lines on the volumes that were left out, and on what `align` "auto" decided.
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

    Under `align` "auto" the volumes are prepared as they are, and once more if `choose_alignment` decides to align.

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
    paths = [pathlib.Path(path) for path in paths]
    labels = labels or [""] * len(paths)
    folder = pathlib.Path(cache_dir) / "volumes"
    preparation = dataclasses.replace(preparation, alignments=alignments_folder(cache_dir))
    notes: tuple[str, ...] = ()
    if preparation.align == "auto":
        as_they_are = dataclasses.replace(preparation, align="none")
        _, facts = _prepared(paths, labels, as_they_are, folder, False, workers, progress)
        preparation, note = choose_alignment(preparation, list(facts.values()))
        notes = (note,)
    stop = on_bad_volume == "stop"
    shards, facts = _prepared(paths, labels, preparation, folder, stop, workers, progress)
    bad = {index: labelled(labels[index], fact["bad"]) for index, fact in sorted(facts.items()) if fact["bad"]}
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
        (*notes, *(f"left out: {reason}" for reason in bad.values())),
        tuple(check_overlap(named, preparation.align, "pooled.tsv, column mask_overlap, has it of every volume")),
        overlap,
        mean,
        deviation,
        None if preparation.align == "none" else np.array([facts[index]["alignment"] for index in kept], np.float64),
    )


def _prepared(
    paths: Sequence[pathlib.Path],
    labels: Sequence[str],
    preparation: Preparation,
    folder: pathlib.Path,
    stop: bool,
    workers: int,
    progress: bool,
) -> tuple[list[_Shard], dict[int, dict[str, Any]]]:
    """Returns the shards of the paths, written if they were missing, and the facts of every path by its index.

    Under `stop` a shard with a bad volume is not kept, since the file may be repaired before the next call.
    """
    shards = _shards(paths, preparation, folder / "shards")
    if _missing(shards):
        with one_process(folder / f"shards-{_name_of(shards)}"):  # two runs on one cohort prepare it once
            _write_shards(_missing(shards), paths, labels, preparation, stop, workers, progress)
    facts = {index: fact for shard in shards for index, fact in zip(shard.members, _read_facts(shard), strict=True)}
    return shards, facts


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
                        raise BadVolumeError(labelled(labels[index], str(result)))
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
