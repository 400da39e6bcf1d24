"""Scales the networks' change of the data by how much it pays, and keeps the scale in the run folder."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from eqpool.config import parse_change_scale
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.site_effects.change_scale import (
    ChangeScale,
    choose_change_scale,
    given_change_scale,
    is_measurable,
    measured_features,
)
from eqpool.data.site_effects.kept import kept_columns
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.engine.session import Columns
from eqpool.methods.decoding import pool_volumes, prepared_rows
from eqpool.methods.latent_model import LatentModel
from eqpool.storage import files
from eqpool.storage.progress import track
from eqpool.storage.run_folder import RunFolder

BeforeAndChange = tuple[np.ndarray, np.ndarray]  # (R, F) each, in z-scores


def with_change_scale_of(folder: RunFolder, model: LatentModel) -> LatentModel:
    """Returns the model with the scale of its run folder."""
    return dataclasses.replace(model, change_scale=read_change_scale(folder))


def read_change_scale(folder: RunFolder) -> float:
    """Returns the scale of a run folder, 1 if a version without scales made it."""
    return float(files.read_json(folder.change_file)["scale"]) if folder.change_file.is_file() else 1.0


def with_chosen_change_scale(folder: RunFolder, model: LatentModel, cohort: Cohort, scaling: Scaling) -> LatentModel:
    """Chooses the scale if the run folder lacks it, writes change.json and a line of the log, and returns the model.

    The scale is `config.output.change_scale` if that is a number, and otherwise that of `chosen_on_splits`.
    """
    if not folder.change_file.is_file():
        given = parse_change_scale(model.config.output.change_scale)
        chosen = _chosen(model, cohort, scaling) if given is None else given_change_scale(given)
        files.write_json(folder.change_file, dataclasses.asdict(chosen))
        folder.append_to_log(chosen.note)
    return with_change_scale_of(folder, model)


def chosen_on_splits(
    measure: Callable[[np.ndarray], BeforeAndChange], columns: Columns, classes: int, splits: Mapping[str, np.ndarray]
) -> ChangeScale:
    """Chooses the scale on the first split whose rows allow it, so name the validation rows first.

    If none does, as with a single site, there is nothing to remove and the scale is 0.

    Args:
      measure: rows -> z-scores before the networks' change, and the change.
      columns: columns for stage two, with one entry for each row.
      classes: number of classes of the target, 0 for a numeric target.
      splits: row indices by name.
    """
    names = ("covariate", "target", "target_known", "site")
    for split, rows in splits.items():
        covariate, target, known, site = (columns[name][rows] for name in names)
        kept = kept_columns(covariate, target, known, classes)
        if is_measurable(site, kept):
            return choose_change_scale(*measure(rows), site, kept, split)
    return given_change_scale(0.0, "no site effect can be measured")


def _chosen(model: LatentModel, cohort: Cohort, scaling: Scaling) -> ChangeScale:
    measure = _of_table if cohort.volumes is None else _of_volumes
    splits = {split: cohort.rows(split) for split in ("validation", "train")}
    columns, classes = scaling.columns(cohort), len(cohort.target_classes)
    return chosen_on_splits(lambda rows: measure(model, cohort, rows), columns, classes, splits)


def _of_table(model: LatentModel, cohort: Cohort, rows: np.ndarray) -> BeforeAndChange:
    """Returns calibrated features, and what the networks change of them where the calibration changes anything."""
    inputs = np.asarray(cohort.inputs)[rows]
    networks = dataclasses.replace(model, calibration=None, change_scale=1.0)
    site = cohort.site_labels[rows]
    change = networks.harmonise_features(inputs, site, "change")[1]
    calibration = model.calibration
    assert change is not None and (calibration is None or isinstance(calibration, SiteCalibration))
    return inputs, change if calibration is None else np.where(calibration.unchanged(site), 0.0, change)


def _of_volumes(model: LatentModel, cohort: Cohort, rows: np.ndarray) -> BeforeAndChange:
    """Returns calibrated volumes and the networks' change at some voxels of the mask."""
    assert cohort.volumes is not None
    measured = np.flatnonzero(cohort.volumes.grid.mask)
    measured = measured[measured_features(len(measured))]
    whole = dataclasses.replace(model, change_scale=1.0)
    stream = pool_volumes(whole, prepared_rows(cohort, rows.tolist()))
    pairs = [
        (pooled.before_networks.ravel()[measured], pooled.networks_change.ravel()[measured])
        for pooled in track(stream, "Measuring the change", unit="volume", total=len(rows))
    ]
    before, change = (np.stack(values) for values in zip(*pairs, strict=True))
    return before, change
