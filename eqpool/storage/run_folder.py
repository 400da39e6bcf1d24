"""The run folder: its file names, its lock, and the config and data it was made with.

No other module contains the name of a file in it.
"""

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import filelock
from ml_collections import ConfigDict

from eqpool.config import RunConfig, differing_keys, to_dict
from eqpool.config.check import from_config_dict
from eqpool.errors import InputError, to_path
from eqpool.storage.files import is_left_to_another, read_json, remove_parts, write_json, write_text

# Keys that change places, frequencies or parallelism, but not the results.
_NEUTRAL_KEYS = ("cache_dir", "checkpoint_every_epochs", "devices", "tensorboard", "workers")

# What runs did from before a key was there, where its default is something else.
_BEFORE_KEYS: dict[str, Any] = {"output": {"scale": "as_scanned"}}

OVERLAP_COLUMN = "mask_overlap"  # column of a run's tables: a volume's overlap with the template's brain
NON_FINITE_ROWS = "non_finite_rows"  # number of rows with non-finite latents, the only metric of such a run
WHO = ("participant_id", "split", "site")  # columns of every table of a run


_PRODUCTS = (
    "derivatives",
    "harmonised_file",
    "report_file",
    "figures",
    "embeddings_file",
    "predictions_file",
    "written_file",
    "pooled_file",
    "results_file",
)


def _named(*parts: str, what: str) -> Any:
    """Makes a property that returns the path of a file in the run folder."""
    return property(lambda self: self.path.joinpath(*parts), doc=what)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run, or of the output of a finished run on new scans.

    Attributes:
      path: path of the folder.
    """

    path: pathlib.Path

    config_file = _named("config.json", what="the checked config")
    data_file = _named("data.json", what="the hash of the data that the folder was made from")
    log_file = _named("log.txt", what="what was read, and the findings of the pre-flight check")
    model_file = _named("model.json", what="what the networks need to know of the training cohort")
    combat_file = _named("combat.npz", what="ComBat's effects of covariates, target and sites")
    calibration_file = _named("calibration.npz", what="site effects on features or volumes")
    linear_decoder_file = _named("linear_decoder.npz", what="the linear part of a decoder of volumes")
    change_file = _named("change.json", what="how much of the networks' change is applied, and why")
    checkpoints = _named("checkpoints", what="one subfolder for each stage")
    metrics_file = _named("metrics.jsonl", what="one record an epoch")
    results_file = _named("results.json", what="every metric")
    pooled_file = _named("pooled.tsv", what="every row's split, site, covariates and target")
    embeddings_file = _named("embeddings.tsv", what="l and Phi of every row")
    predictions_file = _named("predictions.tsv", what="what each task model predicts for every held-out row")
    harmonised_file = _named("harmonised.tsv", what="the harmonised features, in their own units")
    harmonised_facts_file = _named("harmonised.json", what="whether signs were kept, and how many values that changed")
    written_file = _named("written.tsv", what="the scans that were harmonised")
    left_out_file = _named("left_out.tsv", what="new scans that could not be used, and why")
    tau_file = _named("images", "tau.npz", what="tau of some held-out rows.")
    examples_file = _named("images", "examples.npz", what="a few images, step by step through an ISTN")
    samples_file = _named("images", "samples.npz", what="slices of a few held-out volumes")
    derivatives = _named("derivatives", "eqpool", what="the harmonised volumes, a BIDS derivative")
    maps = _named("maps", what="statistical maps")
    maps_file = _named("maps", "maps.json", what="what the maps hold, in numbers")
    folds = _named("folds", what="cross-fitted runs, one subfolder for each number of folds")
    decodes_file = _named("decodes.npy", what="cross-fitted decodes, in the folder above their folds")
    decoded_file = _named("decoded.json", what="says of a fold that it has been decoded")
    figures = _named("figures", what="the pictures, as PNG and SVG")
    failed_figures_file = _named("figures", "failed.json", what="the figures that could not be drawn, and why")
    report_file = _named("report.html", what="the report, with its verdict on top")

    @property
    def inputs(self) -> tuple[pathlib.Path, ...]:
        """The files that make a folder a run. No command writes its output beside them."""
        return self.config_file, self.model_file, self.results_file

    @property
    def products(self) -> list[tuple[pathlib.Path, str]]:
        """The output files for the user with their descriptions, most important first. Checkpoints are not included."""
        named = [(getattr(self, name), getattr(RunFolder, name).__doc__) for name in _PRODUCTS]
        return [(path, what) for path, what in named if path.exists()]

    @property
    def is_finished(self) -> bool:
        """Whether results.json exists."""
        return self.results_file.is_file()

    def check_finished(self) -> None:
        """Raises `InputError` unless the run is finished."""
        if not self.is_finished:
            raise InputError(f"--workdir={self.path}: results.json not found; expected the folder of a finished run")

    def cache(self, config: RunConfig) -> pathlib.Path:
        """Returns the cache that runs share: `config.cache_dir`, or a folder beside this one."""
        return to_path(config.cache_dir) if config.cache_dir else self.path.parent / "cache"

    def fold(self, number: int) -> "RunFolder":
        """Returns the folder of one cross-fitted run; `number` counts from 0."""
        return RunFolder(self.path / f"fold-{number + 1}")

    def read_config(self) -> RunConfig:
        """Reads and checks config.json. Keys that it lacks get the values of the version that wrote it.

        Raises:
          InputError: the file is missing, or holds keys or values that this version does not know.
        """
        return from_config_dict(ConfigDict(_filled(read_json(self.config_file), _BEFORE_KEYS)))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder's lock for this process. The operating system releases the lock when the process ends.

        Raises:
          InputError: another run holds the folder, or it cannot be written.
        """
        if is_left_to_another(self.path):
            yield
            return
        lock = filelock.FileLock(self.path / ".lock", blocking=False, fallback_to_soft=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise InputError(f"--workdir={self.path}: another run is using it") from None
        except OSError as error:
            raise InputError(f"--workdir={self.path}: cannot be written ({error.strerror})") from None
        try:
            remove_parts(self.path)  # only this process writes here, so these are left by a killed one
            yield
        finally:
            lock.release()

    def claim(self, config: RunConfig) -> RunConfig:
        """Writes config.json, or checks that the existing one is the same.

        If nothing has been computed yet, for example after bad input, the existing config is overwritten. Keys missing
        from it are newer than the run, and their defaults give the results of the version without them. The exception
        is `output.scale`: such a run goes on as "as_scanned".

        Returns:
          The config to go on with, which is `config` except for an `output.scale` that is newer than the run.

        Raises:
          InputError: names every key that differs.
        """
        if not self.config_file.exists() or not self._has_computed:
            write_json(self.config_file, to_dict(config))
            return config
        stored = read_json(self.config_file)
        before = _filled(stored, _BEFORE_KEYS)
        if before != stored:
            config = dataclasses.replace(config, output=dataclasses.replace(config.output, scale="as_scanned"))
        before = _filled(before, to_dict(RunConfig()))
        differing = list(differing_keys(_without_neutral(before), _without_neutral(to_dict(config))))
        if differing:
            raise InputError(f"--workdir={self.path} was made with another config: {'; '.join(differing)}")
        return config

    def claim_data(self, data_hash: str, pooled: str, preparation: int = 0) -> None:
        """Writes data.json and pooled.tsv, or checks that existing results were computed from the same data.

        A run resumed with another split would test its networks on people from their training rows.

        Args:
          data_hash: hash by `eqpool.data.fingerprint`.
          pooled: text of pooled.tsv.
          preparation: version of the preparation of volumes; 0 without volumes.

        Raises:
          InputError: names the first row that differs, or the version of the preparation.
        """
        if self._has_computed and self.is_of_other_data(data_hash):
            self._check_preparation(preparation)
            before = self.pooled_file.read_text("utf-8").splitlines() if self.pooled_file.exists() else []
            where = _first_difference(before, pooled.splitlines())
            raise InputError(f"--workdir={self.path} was made with other data: {where}")
        self.write_data_hash(data_hash, preparation)
        write_text(self.pooled_file, pooled)

    def write_data_hash(self, data_hash: str, preparation: int = 0) -> None:
        """Writes data.json."""
        write_json(self.data_file, {"data_hash": data_hash, "preparation": preparation})

    def is_of_other_data(self, data_hash: str) -> bool:
        """Returns whether the folder records other data. A folder without a record may hold any data."""
        return self.data_file.exists() and read_json(self.data_file).get("data_hash") != data_hash

    def append_to_log(self, text: str) -> None:
        """Adds a line to log.txt, unless it already holds that line."""
        before = self.log_file.read_text("utf-8") if self.log_file.exists() else ""
        if text not in before.splitlines():
            write_text(self.log_file, f"{before}{text}\n")

    def _check_preparation(self, preparation: int) -> None:
        """Raises `InputError` if the volumes were prepared by another version."""
        before = read_json(self.data_file).get("preparation", 0)
        if before != preparation:
            said = f"version {before}" if before else "an earlier version"
            raise InputError(
                f"--workdir={self.path} was made with volumes prepared by {said} of the preparation, and this eqpool "
                f"has version {preparation}; name another --workdir and run again, or go on with the eqpool that "
                "began it"
            )

    @property
    def _has_computed(self) -> bool:
        """Whether training has written any of its first or last files, so that the folder depends on its config."""
        computed = (self.metrics_file, self.checkpoints, self.results_file, self.decoded_file)
        return any(path.exists() for path in computed)


def _first_difference(before: list[str], now: list[str]) -> str:
    for line, (old, new) in enumerate(itertools.zip_longest(before, now, fillvalue="nothing"), start=1):
        if old != new:
            return f'pooled.tsv, line {line}: "{old}" then, "{new}" now'.replace("\t", " ")
    return "the same rows, but other features, images or nuisances"


def _filled(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Adds the keys that only `defaults` has, group by group."""
    return defaults | {
        key: _filled(value, defaults[key]) if isinstance(value, dict) and isinstance(defaults.get(key), dict) else value
        for key, value in config.items()
    }


def _without_neutral(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_neutral(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _NEUTRAL_KEYS
    }
