"""Loads morphed MNIST digits of two domains as a cohort, through a tensorflow_datasets builder without TensorFlow.

This is the proof of concept of Robinson et al. (2020), Section 3.1. `eqpool.data.sources.morpho_digits` draws the
digits from MNIST's files. Importing this module loads tensorflow_datasets.
"""

import contextlib
import itertools
import math
import multiprocessing
import os
import pathlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from threadpoolctl import threadpool_limits

from eqpool.data.cohort import Cohort
from eqpool.data.sources.builders import prepare_once
from eqpool.data.sources.downloads import raw_files, read_raw
from eqpool.data.sources.morpho_digits import CLASSES, DOMAINS, Domain, draw_digit, random_digits
from eqpool.data.sources.morphometry import measure
from eqpool.errors import InputError
from eqpool.storage.progress import track

_FILES = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
_SIDE = 28
_IMAGES_MAGIC = 0x803  # idx format: unsigned bytes, three axes
_VALIDATION_SHARE = 0.1
_DIGITS_A_PIECE = 250  # about 1.5 s of work
_PIECES_A_PROCESS = 8  # with fewer, starting the process takes longer than the work

Result = TypeVar("Result")


class MorphoMnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The digits of one domain, with the splits `train` and `test` from MNIST's two files.

    Args:
      domain: look of the digits.
      images: MNIST's images, (N, 28, 28) uint8 for each split.
      chosen: indices of the images to draw, (K,) for each split.
      seed: seed of class, slant and place of the disease.
      data_dir: folder of the prepared digits, which must differ for each choice of the other arguments.
      workers: number of processes, 0 for one a core.
      progress: whether to show a bar on stderr if that is a terminal.
    """

    VERSION = tfds.core.Version("2.0.0")  # raise it whenever a digit would come out different

    def __init__(
        self,
        *,
        domain: Domain,
        images: dict[str, np.ndarray],
        chosen: dict[str, np.ndarray],
        seed: int,
        data_dir: str,
        workers: int = 0,
        progress: bool = True,
    ):
        self._domain, self._images, self._chosen, self._seed = domain, images, chosen, seed
        self._workers, self._progress = workers, progress
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Tensor(shape=(_SIDE, _SIDE), dtype=np.uint8),
                "index": tfds.features.Scalar(dtype=np.int64),
                "target": tfds.features.Scalar(dtype=np.int64),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(split) for split in _FILES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        images, chosen = self._images[split], self._chosen[split]
        pieces = [(images[rows], rows, split, self._domain, self._seed) for rows in _pieces(chosen)]
        label = f"Drawing {self._domain.name} {split} digits"
        with _in_processes(random_digits, pieces, self._workers, self._progress, label) as drawn:
            digits = (digit for piece in drawn for digit in zip(*piece, strict=True))
            for row, (index, (image, kind)) in enumerate(zip(chosen, digits, strict=True)):
                yield row, {"image": image, "index": index, "target": kind}


def load_morpho_mnist(
    raw_dir: str,
    cache_dir: pathlib.Path,
    *,
    source: str,
    target: str,
    train_count: int,
    test_count: int,
    seed: int,
    workers: int = 0,
    progress: bool = True,
) -> Cohort:
    """Draws the digits of a source and a target domain, unpaired in training.

    Each domain draws its own half of the chosen MNIST training digits and holds back a tenth of it for validation. Both
    draw the same MNIST test digits, with the same disease at the same place and the same participant_id.

    Args:
      raw_dir: folder with MNIST's image files, or "" to download them once.
      cache_dir: folder for the drawn digits and the downloads.
      source, target: two of `DOMAINS`.
      train_count, test_count: total numbers of digits chosen from MNIST's training and test files.
      seed: seed of the choice of digits, and of class, slant and place of the disease.
      workers: number of processes, 0 for one a core. Several need a script with its own work under `if __name__ ==
        "__main__":`.
      progress: whether to show a bar on stderr if that is a terminal.

    Returns:
      A `Cohort` of (N, 28, 28) images in [-1, 1] without covariates. Site 0 is the source, and site 1 the target.

    Raises:
      InputError: if a domain is unknown or given twice, more digits are requested than exist, or a file is missing,
        altered or cannot be downloaded.
    """
    _check_domains(source, target)
    images = read_mnist(raw_dir, cache_dir)
    halves, test = _choose(images, train_count, test_count, seed)
    parts = []
    for role, name, half in (("source", source, halves[0]), ("target", target, halves[1])):
        settings = f"{name}-{role}-train{train_count}-test{test_count}-seed{seed}"
        builder = MorphoMnist(
            domain=DOMAINS[name],
            images=images,
            chosen={"train": half, "test": test},
            seed=seed,
            data_dir=str(cache_dir / "tensorflow_datasets" / settings),
            workers=workers,
            progress=progress,
        )
        parts.append(_read(builder))
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    site = np.repeat(np.arange(2, dtype=np.int32), [len(part["target"]) for part in parts])
    return Cohort(
        name="morpho_mnist",
        simulated=True,
        participant_id=columns["participant_id"],
        inputs=columns["image"],
        site=site,
        site_names=(source, target),
        covariates=np.zeros((len(site), 0)),
        covariate_names=(),
        target=columns["target"],
        target_name="disease",
        target_classes=CLASSES,
        split=columns["split"],
        notes=_notes(raw_dir, (source, target), site, columns),
    )


def scaled(pixels: np.ndarray) -> np.ndarray:
    """Maps 0 to 255 to [-1, 1], float32."""
    return (pixels / 127.5 - 1).astype(np.float32)


def _check_domains(source: str, target: str) -> None:
    for role, name in (("source", source), ("target", target)):
        if name not in DOMAINS:
            raise InputError(f'{role} domain "{name}", expected one of {", ".join(DOMAINS)}')
    if source == target:
        raise InputError(f'source and target domain are both "{source}", expected two different ones')


def read_mnist(raw_dir: str, cache_dir: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads MNIST's images, (N, 28, 28) uint8 for each split. Without `raw_dir` they are downloaded once.

    Raises:
      InputError: if a file is missing or altered, or cannot be downloaded.
    """
    folder = raw_files(tuple(_FILES.values()), raw_dir, cache_dir / "downloads")
    return {split: _images(folder / name) for split, name in _FILES.items()}


def _images(path: pathlib.Path) -> np.ndarray:
    content = read_raw(path)
    header = struct.unpack(">4I", content[:16].ljust(16, b"\0"))
    count = (len(content) - 16) // _SIDE**2
    if header != (_IMAGES_MAGIC, count, _SIDE, _SIDE) or len(content) != 16 + count * _SIDE**2:
        raise InputError(
            f"{path}: {len(content)} bytes with idx header {header}, "
            f"expected images of {_SIDE} x {_SIDE}, header ({_IMAGES_MAGIC}, count, {_SIDE}, {_SIDE})"
        )
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, _SIDE, _SIDE)


def _choose(
    images: dict[str, np.ndarray], train_count: int, test_count: int, seed: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the two halves of the chosen training digits, and the chosen test digits."""
    chosen: dict[str, np.ndarray] = {}
    for split, count, fewest in (("train", train_count, 4), ("test", test_count, 1)):
        check_count(f"{split}_count", count, fewest, images, split)
        chosen[split] = np.random.default_rng((seed, len(chosen))).permutation(len(images[split]))[:count]
    return np.array_split(chosen["train"], 2), np.sort(chosen["test"])


def check_count(name: str, count: int, fewest: int, images: dict[str, np.ndarray], split: str) -> None:
    """Raises `InputError` unless `count` is at least `fewest` and at most the number of digits in a split of MNIST."""
    available = len(images[split])
    if not fewest <= count <= available:
        raise InputError(f"{name} = {count}, expected {fewest} to {available}, the digits in MNIST's {_FILES[split]}")


def _read(builder: MorphoMnist) -> dict[str, np.ndarray]:
    prepare_once(builder)
    parts = []
    for split in _FILES:
        data = builder.as_data_source(split=split)
        examples = data.__getitems__(range(len(data)))
        columns = {key: np.array([example[key] for example in examples]) for key in ("image", "index", "target")}
        columns["split"] = np.full(len(examples), split, "<U10")
        if split == "train":
            columns["split"][-max(1, round(_VALIDATION_SHARE * len(examples))) :] = "validation"
        columns["participant_id"] = np.array([f"{split}-{index:05d}" for index in columns["index"]])
        columns["image"] = scaled(columns["image"])
        columns["target"] = columns["target"].astype(np.int32)
        parts.append(columns)
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _notes(raw_dir: str, names: tuple[str, str], site: np.ndarray, columns: dict[str, np.ndarray]) -> tuple[str, ...]:
    origin = f"the files in {raw_dir}" if raw_dir else "a mirror of MNIST"
    notes = [f"digits drawn here from {origin}, SHA-256 verified; not the files that the paper used"]
    for index, name in enumerate(names):
        here = site == index
        split = ", ".join(f"{np.sum(here & (columns['split'] == s))} {s}" for s in ("train", "validation", "test"))
        kinds = ", ".join(f"{np.sum(here & (columns['target'] == i))} {kind}" for i, kind in enumerate(CLASSES))
        notes.append(f"{name}: {split}; {kinds}")
    notes.append("no MNIST training digit is in both domains; every chosen test digit is, with the same disease")
    return tuple(notes)


def _pieces(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _DIGITS_A_PIECE] for start in range(0, len(rows), _DIGITS_A_PIECE)]


@contextlib.contextmanager
def _in_processes(
    function: Callable[..., Result], pieces: Sequence[tuple], workers: int, progress: bool, label: str
) -> Iterator[Iterator[Result]]:
    """Yields an iterator over `function(*piece)` in the pieces' order, computed by several processes if worthwhile."""
    workers = min(workers or os.cpu_count() or 1, math.ceil(len(pieces) / _PIECES_A_PROCESS))

    def shown(results: Iterable[Result]) -> Iterable[Result]:
        return track(results, label, unit="piece", total=len(pieces), leave=True, wanted=progress)

    if workers <= 1:
        yield iter(shown(itertools.starmap(function, pieces)))
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with JAX in it may hang
    with (
        ProcessPoolExecutor(workers, context, initializer=threadpool_limits, initargs=(1,)) as executor,
    ):
        try:
            yield iter(shown(executor.map(function, *zip(*pieces, strict=True))))
        finally:
            executor.shutdown(cancel_futures=True)


def _measure_healthy(images: np.ndarray, indices: np.ndarray, domain: Domain) -> np.ndarray:
    """Returns thickness in pixels and slant in degrees, (K, 2), of digits drawn healthy."""
    measured = np.empty((len(images), 2))
    for row, index in enumerate(indices):
        drawn = measure(draw_digit(images[row], domain, "healthy", np.random.default_rng((0, int(index)))))
        measured[row] = drawn.thickness_pixels, math.degrees(drawn.slant_radians)
    return measured


def measure_domain(images: np.ndarray, domain: Domain, workers: int = 0, progress: bool = True) -> np.ndarray:
    """Measures MNIST digits drawn healthy in a domain with `eqpool.data.sources.morphometry.measure`.

    Args:
      images: (N, 28, 28) uint8.
      domain: look of the digits.
      workers: number of processes, 0 for one a core.
      progress: whether to show a bar on stderr if that is a terminal.

    Returns:
      (N, 2) float64: thickness in pixels, slant in degrees.
    """
    pieces = [(images[rows], rows, domain) for rows in _pieces(np.arange(len(images)))]
    with _in_processes(_measure_healthy, pieces, workers, progress, domain.name) as measured:
        return np.concatenate(list(measured))
