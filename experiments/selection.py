"""Chooses one of a method's settings by cross-validation inside the training rows of a split.

Validation and test rows of the split take no part, so that no choice has seen a row that any run is tested on with it.
Each fold of the training rows is held out once. A sixth of the other folds chooses the epoch, as in a run.
"""

import dataclasses
import multiprocessing
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from eqpool.config import DataConfig, EvaluateConfig, RunConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.load import load_cohort
from eqpool.data.sources.volume_calibration import calibrate_volumes
from eqpool.data.splits import assign_folds, assign_splits, balanced_strata
from eqpool.engine.compilation import use_compilation_cache
from eqpool.engine.session import Session
from eqpool.errors import InputError
from eqpool.evaluate.intervals import balanced_accuracy, chance_level
from eqpool.evaluate.probes import probe_panel, site_floor_features, strongest
from eqpool.methods.latent import train_latents
from eqpool.storage.files import read_json, write_json
from eqpool.storage.progress import track
from eqpool.storage.run_folder import RunFolder
from experiments.provenance import config_hash
from experiments.runner import Setting, Task, before_second_stage, config_of, prepare_worker

MARGIN = 0.02  # of balanced accuracy, by which a probe may exceed its limit
_VALIDATION = 1 / 6  # share of the rows of a fold's training, as in the experiment `folds`
_LEFT_OUT = "left_out"  # split of the rows that take no part
Scores = dict[str, float | None]


class Candidate(NamedTuple):
    """A setting with its scores, one for each fold.

    Attributes:
      setting: config keys.
      balanced_accuracy: of the target on held-out rows, in percent.
      probe: balanced accuracy of the strongest probe of the site on held-out rows.
      limit: max(site floor, chance level) of the probe on these rows.
    """

    setting: Setting
    balanced_accuracy: list[float]
    probe: list[float]
    limit: list[float]

    @classmethod
    def of(cls, setting: Setting, folds: Sequence[Scores]) -> "Candidate":
        """Collects the scores of all folds. A fold without two sites in its held-out rows has no probe."""
        probed = [fold for fold in folds if fold["probe"] is not None]
        limits = [max(fold["floor"] or 0.0, fold["chance"] or 0.0) for fold in probed]
        accuracy = [fold["balanced_accuracy"] for fold in folds if fold["balanced_accuracy"] is not None]
        return cls(setting, accuracy, [fold["probe"] for fold in probed if fold["probe"] is not None], limits)

    @property
    def excess(self) -> float:
        """How far the probe exceeds its limit, as means over folds; 0 if no fold has a probe."""
        return float(np.mean(self.probe) - np.mean(self.limit)) if self.probe else 0.0

    @property
    def accuracy(self) -> float:
        """The mean balanced accuracy over folds."""
        return float(np.mean(self.balanced_accuracy)) if self.balanced_accuracy else float("-inf")

    def to_dict(self) -> dict[str, Any]:
        """Returns the setting and its scores for a JSON file."""
        return self._asdict()


class FoldJob(NamedTuple):
    """One fold of one split, on which all settings of a method are scored.

    Attributes:
      tasks: a task for each setting. Their data are the same.
      fold: number of the fold, from 0.
      num_folds: number of folds.
    """

    tasks: tuple[Task, ...]
    fold: int
    num_folds: int


def choose(candidates: Sequence[Candidate], margin: float = MARGIN) -> Candidate:
    """Returns the candidate with the best balanced accuracy among those that hide the site.

    A candidate hides the site if its probe exceeds max(site floor, chance) by at most `margin`. If none does, the one
    with the smallest excess is returned. Of equally accurate ones the first is returned.
    """
    hiding = [one for one in candidates if one.excess <= margin]
    if not hiding:
        return min(candidates, key=lambda one: one.excess)
    return max(hiding, key=lambda one: one.accuracy)


def inner_split(cohort: Cohort, fold: int, count: int, seed: int) -> np.ndarray:
    """Returns the split of a fold inside a cohort's training rows, (N,) str.

    Folds are dealt by subject and balanced by site and target. All other rows are `_LEFT_OUT`.
    """
    rows = cohort.rows("train")
    strata = balanced_strata(cohort.site[rows], cohort.target[rows], cohort.target_classes)
    of_row = assign_folds(cohort.participant_id[rows], strata, folds=count, seed=seed)
    split = np.full(len(cohort.site), _LEFT_OUT, "<U10")
    split[rows[of_row == fold]] = "test"
    rest = rows[of_row != fold]
    kept = [one for one, other in zip(strata, of_row, strict=True) if other != fold]
    split[rest] = assign_splits(
        cohort.participant_id[rest], kept, validation_fraction=_VALIDATION, test_fraction=0.0, seed=seed
    )
    return split


def score_all(jobs: Sequence[FoldJob], processes: int, label: str) -> list[list[Scores]]:
    """Scores every setting of every job, in order. Scores that were computed before are read.

    Raises:
      InputError: a task's data are bad, or its target is a number.
    """
    if not jobs:
        return []
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), prepare_worker, (processes > 1,)) as pool:
        try:
            return list(track(pool.map(_score, jobs), f"{label}, folds", unit="fold", total=len(jobs), leave=True))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _score(job: FoldJob) -> list[Scores]:
    return list(_scores(job))


def _scores(job: FoldJob) -> Iterator[Scores]:
    """Yields the scores of each setting. Settings that share stage one train it once."""
    first: dict[object, pathlib.Path] = {}
    for task in job.tasks:
        folder = task.folder.with_name(f"{task.folder.name}_fold{job.fold}of{job.num_folds}")
        config, result = config_of(task), folder / "scores.json"
        leader = first.setdefault(before_second_stage(task.setting), folder)
        known = read_json(result) if result.is_file() else {}
        if known.get("config_hash") != config_hash(config):
            shutil.rmtree(folder, ignore_errors=True)
            _copy_stage_one(leader, folder)
            cache = use_compilation_cache(config, RunFolder(folder))
            cohort = _inner_cohort(config.data, cache, job.fold, job.num_folds)
            known = {"config_hash": config_hash(config), "scores": score_fold(config, cohort, folder)}
            write_json(result, known)
        yield known["scores"]


def _inner_cohort(data: DataConfig, cache: pathlib.Path, fold: int, count: int) -> Cohort:
    cohort = load_cohort(data, cache, progress=False)
    if not cohort.target_classes:
        raise InputError("config.data.target: a number, expected classes: settings are chosen by their accuracy")
    cohort = dataclasses.replace(cohort, split=inner_split(cohort, fold, count, data.split_seed))
    return cohort if cohort.volumes is None else calibrate_volumes(cohort, data)  # without the fold's own rows


def score_fold(config: RunConfig, cohort: Cohort, folder: pathlib.Path) -> Scores:
    """Trains on the cohort's training rows and scores its test rows.

    Returns:
      `balanced_accuracy` of the target in percent, and `probe`, `floor` and `chance` of the site. A score that the test
      rows do not define is None.
    """
    made, _ = train_latents(Session.start(config, RunFolder(folder)), cohort, Scaling.fit(cohort))
    test = np.flatnonzero((cohort.split == "test") & cohort.target_known)
    accuracy = 100 * balanced_accuracy(cohort.target[test], made.prediction[test].argmax(axis=1)) if len(test) else None
    floor = site_floor_features(cohort.covariates, np.maximum(cohort.target, 0), cohort.target_classes)
    known = cohort.target_known
    return {
        "balanced_accuracy": accuracy,
        "probe": _strongest(cohort, made.phi, cohort.site >= 0, config.evaluate),
        "floor": _strongest(cohort, floor, (cohort.site >= 0) & known, config.evaluate),
        "chance": chance_level(cohort.site[(cohort.split == "test") & (cohort.site >= 0)]),
    }


def _strongest(cohort: Cohort, features: np.ndarray, used: np.ndarray, config: EvaluateConfig) -> float | None:
    train, test = (np.flatnonzero((cohort.split == split) & used) for split in ("train", "test"))
    scores = probe_panel(
        features, cohort.site, cohort.participant_id, train, test,
        config=dataclasses.replace(config, bootstraps=1), num_sites=len(cohort.site_names), within=False,
    )  # fmt: skip
    return strongest(scores).balanced_accuracy if scores else None


def _copy_stage_one(finished: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the checkpoints of stage one from another setting's folder, if they are there."""
    source = RunFolder(finished).checkpoints / "stage_one"
    if finished != folder and source.is_dir():
        shutil.copytree(source, RunFolder(folder).checkpoints / "stage_one")
