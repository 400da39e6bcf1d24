"""Fits the site calibration that a config asks for on the training rows of a participants table."""

import numpy as np

from eqpool.config import DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.participants import ParticipantsTable
from eqpool.data.tables.targets import target_columns
from eqpool.errors import InputError


def fit_table_calibration(
    inputs: np.ndarray, cohort: Cohort, table: ParticipantsTable, config: DataConfig
) -> SiteCalibration | None:
    """Fits the scanner effects on the training rows, with the effects of covariates and target kept.

    Rows of one participant do not count as independent.

    Args:
      inputs: (N, F) encoded features.
      cohort: cohort of the N rows, without its inputs.
      table: table of the N rows, of which `config.fit_on` names a column.
      config: configuration of the data.

    Returns:
      The calibration, or None if the config asks for none.

    Raises:
      InputError: `config.reference` or `config.fit_on` names no training row.
    """
    if config.site_calibration == "none":
        for key in ("reference", "fit_on"):
            if getattr(config, key):
                raise InputError(f'config.data.{key} = "{getattr(config, key)}": expected "" without site_calibration')
        return None
    rows = cohort.rows("train")
    site = site_names(cohort)[rows]
    fit_on = fit_on_rows(table, config.fit_on)[rows] if config.fit_on else None
    used = site if fit_on is None else site[fit_on]
    if not np.any(used != ""):
        raise InputError(f'config.data.fit_on = "{config.fit_on}": no training row with a known site, expected some')
    if config.reference and config.reference not in used:
        expected = ", ".join(sorted({str(name) for name in used} - {""}))
        raise InputError(f'config.data.reference = "{config.reference}": expected a site of training rows: {expected}')
    return SiteCalibration.fit(
        inputs[rows],
        site,
        cohort.covariates[rows],
        target_columns(cohort.target[rows], cohort.target_known[rows], len(cohort.target_classes)),
        method=config.site_calibration,
        reference=config.reference,
        fit_on=fit_on,
        subject=cohort.participant_id[rows],
    )


def fit_on_rows(table: ParticipantsTable, fit_on: str) -> np.ndarray:
    """Returns the (N,) bool mask of the rows whose column has a label, from a text such as "dx:CN".

    Raises:
      InputError: the text has another form, there is no such column, or no row has the label.
    """
    column, separator, label = fit_on.rpartition(":")
    if not separator or not column or not label:
        raise InputError(f'config.data.fit_on = "{fit_on}": expected column:label, such as dx:CN')
    table.require(column, "config.data.fit_on")
    labels = table.names_in(column)
    if label not in labels:
        found = ", ".join(sorted({str(name) for name in labels} - {""}))
        raise InputError(f'config.data.fit_on = "{fit_on}": no row has {label} in {column}, expected one of {found}')
    return labels == label


def calibration_notes(calibration: SiteCalibration, names: tuple[str, ...]) -> list[str]:
    """Returns lines for the run's log: what is corrected, how strongly, and which features failed at a site."""
    notes = [calibration.summary()]
    for site, columns in calibration.describe()["unchanged"].items():
        notes.append(f"site {site}: {', '.join(names[one] for one in columns)} have one value there and stay unchanged")
    return notes


def site_names(cohort: Cohort) -> np.ndarray:
    """Returns the (N,) names of the rows' sites, "" where unknown."""
    return np.array([*cohort.site_names, ""])[cohort.site]
