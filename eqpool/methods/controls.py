"""Learns the effects of scanners that a run was not trained on from a few controls of each."""

import numpy as np

from eqpool.config import RunConfig
from eqpool.data.site_effects.voxelwise import VoxelCalibration
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.coding import UNKNOWN
from eqpool.data.tables.covariates import parse_specs, read_covariates_of
from eqpool.data.tables.levels import code_labels
from eqpool.data.tables.participants import ID_COLUMN, ParticipantsTable, parse_numbers
from eqpool.data.tables.targets import target_columns
from eqpool.errors import InputError
from eqpool.methods.base import NewScans, Say
from eqpool.methods.calibration import Calibration
from eqpool.methods.facts import ModelFacts
from eqpool.methods.harmonised_table import feature_frame


def with_controls(
    calibration: Calibration, controls: NewScans, config: RunConfig, facts: ModelFacts, say: Say
) -> Calibration:
    """Returns a calibration with the effects of the controls' sites, which replace known ones of the same name.

    Args:
      calibration: site calibration of the run.
      controls: rows with the run's column of sites and covariates, and its target if the table has it. Repeated scans
        of a participant do not count as independent.
      config, facts: config and training cohort of the run.
      say: receives one line for each site.

    Raises:
      InputError: a row lacks its site or a covariate, in one line that names file, row and column.
    """
    table, data = controls.table, config.data
    site = _sites(table, data.site_column)
    covariates = read_covariates_of(table, parse_specs(data.covariates), facts.covariate_names, facts.first_levels)
    person = table.frame[ID_COLUMN].to_numpy(np.str_)
    target = _target(table, data.target, facts)
    rows, inputs = _inputs(calibration, controls, facts, say)
    for name in dict.fromkeys(site[rows].tolist()):
        here = np.flatnonzero(site[rows] == name)
        own = rows[here]
        columns = None if target is None else target[own]
        known = name in calibration.sites
        calibration = calibration.with_site(name, inputs[here], covariates[own], columns, person[own])
        said = "replace those of the training rows" if known else "are added"
        say(f"{data.site_column} {name}: scanner effects learnt from {len(own)} controls {said}")
    return calibration


def _inputs(calibration: Calibration, controls: NewScans, facts: ModelFacts, say: Say) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that are left, (n,), and their voxels inside the mask or features, (n, F)."""
    if isinstance(calibration, SiteCalibration):
        assert facts.features is not None
        frame = feature_frame(controls.table, facts.features, say)
        return np.arange(len(frame)), facts.features.apply(frame)
    assert isinstance(calibration, VoxelCalibration)
    with controls.prepare() as prepared:
        read = [(scan.row, scan.volume[calibration.mask]) for scan in prepared]
    return np.array([row for row, _ in read]), np.stack([values for _, values in read])


def _sites(table: ParticipantsTable, column: str) -> np.ndarray:
    table.require(column, "the site of a control")
    site = table.names_in(column)
    missing = np.flatnonzero(site == UNKNOWN)
    if missing.size:
        raise InputError(f"{table.where(int(missing[0]), column)}: missing, expected the site of every control")
    return site


def _target(table: ParticipantsTable, column: str, facts: ModelFacts) -> np.ndarray | None:
    """Returns the (N, K) columns of the target, NaN where unknown, or None if the table has none."""
    if not column or column not in table.frame:
        return None
    if facts.target_classes:
        codes, _ = code_labels(table.names_in(column), facts.target_classes)
        return target_columns(codes, codes >= 0, len(facts.target_classes))
    numbers = parse_numbers(table, column)
    return target_columns(numbers, np.isfinite(numbers), 0)
