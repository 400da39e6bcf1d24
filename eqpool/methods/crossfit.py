"""Cross-fitted decodes: each volume is decoded by networks that saw neither the volume nor its target.

A network trained on a volume has seen its diagnosis, and its decode would carry the diagnosis into any map of it.
Therefore the cohort's subjects are divided into K folds, the whole run is trained K times without one of the folds, and
each fold is decoded by the run that did not see it.
"""

import dataclasses
import pathlib

import numpy as np

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.fingerprint import data_hash
from eqpool.data.sources.volume_calibration import calibrate_volumes
from eqpool.data.splits import assign_folds, assign_splits, balanced_strata
from eqpool.engine.session import Session
from eqpool.errors import InputError
from eqpool.methods.calibration import write_calibration
from eqpool.methods.change import read_change_scale, with_chosen_change_scale
from eqpool.methods.decoding import pool_volumes, prepared_rows
from eqpool.methods.facts import ModelFacts
from eqpool.methods.linear_decoder import complete_decoder
from eqpool.methods.pooling import Pooling
from eqpool.storage import files
from eqpool.storage.progress import track
from eqpool.storage.run_folder import RunFolder

FEWEST_VALIDATION = 3


@dataclasses.dataclass(frozen=True)
class Decodes:
    """The decodes of N volumes by K runs, at the V voxels of the brain mask, in z-scores.

    Attributes:
      values: (4, N, V) float32 memory map: the input, D(l), D(Psi(Phi(l))) and the calibrated input, which is the input
        itself without a site calibration.
      fold: (N,) number of the run that decoded each volume.
      change_scale: (N,) factor of that run on the change D(Psi(Phi)) - D(l); () for one factor.
    """

    values: np.ndarray
    fold: np.ndarray
    change_scale: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(()))


def cross_fitted_decodes(config: RunConfig, cohort: Cohort, folder: RunFolder, folds: int) -> Decodes:
    """Trains K times, or resumes a stopped call, and decodes every volume of the cohort.

    Args:
      config: config of the run, with method "ours".
      cohort: cohort of volumes. Its own split is not used.
      folder: folder for `fold-1` ... with their checkpoints, and decodes.npy.
      folds: K, at least 2.

    Raises:
      InputError: the folder holds results of another cohort or another config.
    """
    assert cohort.volumes is not None
    parts = [folder.fold(number) for number in range(folds)]
    _claim(folder, data_hash(cohort))
    for part in parts:  # check all configs, also of decoded folds, before hours of training
        with part.locked():
            part.claim(config)
    fold = deal_folds(config, cohort, folds)
    decodes = _open_decodes(folder.decodes_file, (4, len(fold), int(cohort.volumes.grid.mask.sum())), parts)
    for number, part in enumerate(track(parts, "Folds", unit="fold", leave=True)):
        with part.locked():
            if not part.decoded_file.exists():
                held_out = _hold_out(cohort, fold, number, config)
                _train(config, held_out, part)
                _decode(held_out, part, decodes)
                decodes.flush()
                files.write_json(part.decoded_file, {"volumes": int((fold == number).sum())})
    return Decodes(decodes, fold, np.array([read_change_scale(part) for part in parts])[fold])


def deal_folds(config: RunConfig, cohort: Cohort, folds: int) -> np.ndarray:
    """Assigns each scan (N,) to one of `folds` folds, by whole subjects and balanced over sites and classes."""
    strata = balanced_strata(cohort.site, cohort.target, cohort.target_classes)
    return assign_folds(cohort.participant_id, strata, folds=folds, seed=config.data.split_seed)


def _claim(folder: RunFolder, fingerprint: str) -> None:
    if folder.is_of_other_data(fingerprint):
        raise InputError(f"{folder.path}: made with other data; remove it, and the folds are trained again")
    folder.write_data_hash(fingerprint)


def _open_decodes(path: pathlib.Path, shape: tuple[int, ...], parts: list[RunFolder]) -> np.memmap:
    """Opens the memory map for decodes. A new one holds zeros, and all folds are marked as not decoded."""
    if not path.exists() or np.load(path, mmap_mode="r", allow_pickle=False).shape != shape:  # of an earlier version
        for part in parts:
            part.decoded_file.unlink(missing_ok=True)
        files.write_atomically(path, lambda made: files.allocate_array(made, shape).flush())
    return np.lib.format.open_memmap(path, mode="r+")


def _hold_out(cohort: Cohort, fold: np.ndarray, number: int, config: RunConfig) -> Cohort:
    """Returns the cohort with one fold as its test split, and validation rows from the other folds."""
    rest = np.flatnonzero(fold != number)
    strata = balanced_strata(cohort.site[rest], cohort.target[rest], cohort.target_classes)
    split = np.full(len(fold), "test", "<U10")
    split[rest] = assign_splits(
        cohort.participant_id[rest],
        strata,
        # Scores of pairs need a few rows.
        validation_fraction=max(config.data.validation_fraction, FEWEST_VALIDATION / len(rest)),
        test_fraction=0.0,
        seed=config.data.split_seed,
    )
    # The site effects must not have seen the fold either.
    return calibrate_volumes(dataclasses.replace(cohort, split=split), config.data)


def _train(config: RunConfig, cohort: Cohort, folder: RunFolder) -> None:
    scaling = Scaling.fit(cohort)
    ModelFacts.of(cohort, scaling, Pooling().reference(config, cohort)).write(folder)
    write_calibration(cohort, folder)
    Pooling().train(Session.start(config, folder, cohort.participant_id), cohort, scaling)


def _decode(cohort: Cohort, folder: RunFolder, decodes: np.ndarray) -> None:
    assert cohort.volumes is not None
    mask = cohort.volumes.grid.mask
    rows = cohort.rows("test")
    model = complete_decoder(folder, Pooling().load(folder), cohort)
    model = with_chosen_change_scale(folder, model, cohort, Scaling.fit(cohort))
    stream = pool_volumes(model, prepared_rows(cohort, rows.tolist()))
    for pooled in track(stream, "Decoding", unit="volume", total=len(rows)):
        assert pooled.original is not None and pooled.pooled is not None
        calibrated = pooled.inputs if pooled.calibrated is None else pooled.calibrated
        decodes[:, pooled.row] = [
            volume[mask] for volume in (pooled.inputs, pooled.original, pooled.pooled, calibrated)
        ]
