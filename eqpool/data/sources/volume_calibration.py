"""Fits the site calibration that a config asks for on a cohort's training volumes, and puts it before the inputs."""

import dataclasses
from typing import Any

import numpy as np

from eqpool.config import DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.site_effects.combat import Combat
from eqpool.data.site_effects.moments import by_person
from eqpool.data.site_effects.voxel_chunks import voxel_chunks
from eqpool.data.site_effects.voxelwise import VoxelCalibration
from eqpool.data.tables.coding import UNKNOWN
from eqpool.data.volumes.calibrated import CalibratedVolumes
from eqpool.errors import InputError

VOLUME_CALIBRATIONS = ("none", "location", "location_scale", "auto", "combat")  # auto is location_scale


def check_volume_calibration(config: DataConfig) -> None:
    """Raises `InputError` if volumes cannot be calibrated as the config asks."""
    chosen = config.site_calibration
    if chosen not in VOLUME_CALIBRATIONS:
        expected = ", ".join(VOLUME_CALIBRATIONS)
        raise InputError(f'config.data.site_calibration = "{chosen}": expected one of {expected} for volumes')
    if chosen != "none" and config.squash:
        raise InputError(f'config.data.site_calibration = "{chosen}": expected "none" with config.data.squash')


def calibrate_volumes(cohort: Cohort, config: DataConfig) -> Cohort:
    """Returns a cohort whose volumes are calibrated as they are read, or the cohort itself if the config asks for none.

    Effects are learnt from training rows with a known site, beside covariates and target, from those alone that
    `config.fit_on` selects if it is given. Volumes of one participant share a random effect. A cohort that is already
    calibrated, such as one with other training rows, is calibrated anew. Rows without a site are corrected by the
    effects of all sites, weighted by `predict_site`.

    Raises:
      InputError: the config asks for what volumes do not have, or no training row has a known site or the reference's.
    """
    check_volume_calibration(config)
    if config.site_calibration == "none":
        return cohort
    assert cohort.volumes is not None
    prepared = cohort.uncalibrated
    assert not isinstance(prepared, CalibratedVolumes)
    calibration = _fit(cohort, config)
    names = cohort.site_labels
    known = np.isin(names, calibration.sites)  # a volume is read only if its site has to be predicted
    weights = (names[:, None] == np.array(calibration.sites)[None]).astype(np.float64)
    for row in np.flatnonzero(~known):
        weights[row] = calibration.predict_site(prepared[row])
    volumes = dataclasses.replace(cohort.volumes, prepared=prepared, calibration=calibration)
    inputs = CalibratedVolumes(prepared, calibration, weights)
    return dataclasses.replace(cohort, inputs=inputs, volumes=volumes)


def volume_calibration_notes(cohort: Cohort, config: DataConfig) -> tuple[str, ...]:
    """Returns lines for the run's log: what is corrected, and how many rows' sites were predicted."""
    assert cohort.volumes is not None
    calibration = cohort.volumes.calibration
    if calibration is None:
        return ()
    known = ", ".join(f"{name} {rows}" for name, rows in zip(calibration.sites, calibration.rows, strict=True))
    notes = [f"volumes are calibrated (site_calibration = {config.site_calibration}), from training rows of {known}"]
    scans = np.unique(cohort.participant_id[cohort.learns_site_effects], return_counts=True)[1]
    if (scans > 1).any():
        notes.append(
            f"{int((scans > 1).sum())} participants have several of these volumes, which share a random effect"
        )
    unknown = np.flatnonzero(~np.isin(cohort.site_labels, calibration.sites))
    if unknown.size:
        assert isinstance(cohort.inputs, CalibratedVolumes)
        likely = [calibration.sites[place] for place in cohort.inputs.weights[unknown].argmax(axis=1)]
        notes.append(predicted_note(likely, config.site_column))
    return tuple(notes)


def predicted_note(likely: list[str], site_column: str) -> str:
    """Returns the line on rows whose site was predicted, given the most probable site of each."""
    counts = ", ".join(f"{name} {likely.count(name)}" for name in sorted(set(likely)))
    return (
        f"{len(likely)} rows without a calibrated {site_column}: it is predicted from the volume (most probable: "
        f"{counts}), and the sites' effects are weighted by their probabilities"
    )


def _fit(cohort: Cohort, config: DataConfig) -> VoxelCalibration:
    assert cohort.volumes is not None
    grid, volumes, names = cohort.volumes.grid, cohort.volumes, cohort.site_labels
    used = cohort.learns_site_effects
    if not used.any():
        raise InputError(
            f'config.data.site_calibration = "{config.site_calibration}": no training row with a known '
            f"{config.site_column}{' that config.data.fit_on selects' if cohort.fit_on is not None else ''}"
        )
    if config.reference and config.reference not in names[used]:
        found = ", ".join(sorted(set(names[used].tolist())))
        raise InputError(f'config.data.reference = "{config.reference}": expected a site of the training rows, {found}')
    prepared, rows = cohort.uncalibrated, by_person(np.flatnonzero(used), cohort.participant_id)
    learnt_from: Any = (
        lambda: voxel_chunks(prepared.__getitem__, rows, grid.mask),
        np.where(used, names, UNKNOWN),
        cohort.covariates,
        cohort.target_columns,
    )
    common: Any = {"reference": config.reference, "subject": cohort.participant_id}
    calibration = VoxelCalibration.fit_stream(
        *learnt_from,
        mask=grid.mask,
        voxel_mm=np.sqrt((grid.affine[:3, :3] ** 2).sum(axis=0)),
        zero=-float(np.median(volumes.tissue_mean[used] / volumes.tissue_deviation[used])),
        scales=config.site_calibration not in ("location", "combat"),
        **common,
    )
    if config.site_calibration != "combat":
        return calibration
    return _with_effects_of(calibration, Combat.fit_stream(*learnt_from, shared_ratio=True, **common))


def _with_effects_of(calibration: VoxelCalibration, combat: Combat) -> VoxelCalibration:
    """Returns a calibration that corrects a volume as ComBat does about the mean training volume."""
    return dataclasses.replace(
        calibration,
        coefficients=combat.coefficients,
        mean=combat.mean,
        variance=combat.deviation**2,
        location=combat.deviation * combat.location,
        log_scale=np.log(combat.spread),
    )
