"""Scales the networks' change of the data by how much it pays, and keeps the scale in the run folder."""

import dataclasses

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
from eqpool.data.tables.scaling import decoded_change
from eqpool.methods.decoding import pool_volumes
from eqpool.methods.latent_model import LatentModel
from eqpool.storage import files
from eqpool.storage.progress import track
from eqpool.storage.run_folder import RunFolder

_CHUNK = 4096  # rows of a table in the networks at once


def with_change_scale_of(folder: RunFolder, model: LatentModel) -> LatentModel:
    """Returns the model with the scale of its run folder."""
    return dataclasses.replace(model, change_scale=read_change_scale(folder))


def read_change_scale(folder: RunFolder) -> float:
    """Returns the scale of a run folder, 1 if a version without scales made it."""
    return float(files.read_json(folder.change_file)["scale"]) if folder.change_file.is_file() else 1.0


def with_chosen_change_scale(folder: RunFolder, model: LatentModel, cohort: Cohort, scaling: Scaling) -> LatentModel:
    """Chooses the scale if the run folder lacks it, writes change.json and a line of the log, and returns the model.

    The scale is `config.output.change_scale` if that is a number, and otherwise chosen on the validation rows. If these
    have too few sites, it is chosen on the training rows, and the log says so. It is 0 if no site effect can be
    measured there either.
    """
    if not folder.change_file.is_file():
        given = parse_change_scale(model.config.output.change_scale)
        chosen = _choose(model, cohort, scaling) if given is None else given_change_scale(given)
        files.write_json(folder.change_file, dataclasses.asdict(chosen))
        folder.append_to_log(chosen.note)
    return with_change_scale_of(folder, model)


def _choose(model: LatentModel, cohort: Cohort, scaling: Scaling) -> ChangeScale:
    columns = scaling.columns(cohort)
    parts = (columns["covariate"], columns["target"], columns["target_known"])
    kept, site = kept_columns(*parts, len(cohort.target_classes)), columns["site"]
    for split in ("validation", "train"):
        rows = cohort.rows(split)
        if is_measurable(site[rows], kept[rows]):
            return choose_change_scale(*_before_and_change(model, cohort, rows), site[rows], kept[rows], split)
    return given_change_scale(0.0, "no site effect can be measured")


def _before_and_change(model: LatentModel, cohort: Cohort, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the z-scores of some rows before the networks' change, and the change, (R, F) each."""
    if cohort.volumes is None:
        inputs = np.asarray(cohort.inputs)[rows]
        return inputs, _change_of_table(model, inputs)
    measured = np.flatnonzero(cohort.volumes.grid.mask)
    measured = measured[measured_features(len(measured))]
    full = dataclasses.replace(model, change_scale=1.0)
    stream = pool_volumes(full, ((row, cohort.inputs[row]) for row in rows.tolist()))
    label = "Measuring the change"
    pairs = [
        (pooled.inputs.ravel()[measured], pooled.change.ravel()[measured])
        for pooled in track(stream, label, unit="volume", total=len(rows))
    ]
    before, change = (np.stack(values) for values in zip(*pairs, strict=True))
    return before, change


def _change_of_table(model: LatentModel, inputs: np.ndarray) -> np.ndarray:
    assert model.decode is not None
    parts = []
    for start in range(0, len(inputs), _CHUNK):
        outputs = model.encode(inputs[start : start + _CHUNK])
        before, after = (model.decode(outputs[name]) for name in ("latent", "pooled_latent"))
        parts.append(decoded_change(before, after, 1.0))
    return np.concatenate(parts)
