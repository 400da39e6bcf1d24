"""Fits the site calibration that a config asks for on the training rows of a participants table."""

import numpy as np

from eqpool.config import DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.targets import target_columns
from eqpool.errors import InputError


def fit_table_calibration(inputs: np.ndarray, cohort: Cohort, config: DataConfig) -> SiteCalibration | None:
    """Fits the scanner effects on the training rows, with the effects of covariates and target kept.

    Rows of one participant do not count as independent.

    Args:
      inputs: (N, F) encoded features.
      cohort: cohort of the N rows, without its inputs.
      config: configuration of the data.

    Returns:
      The calibration, or None if the config asks for none.

    Raises:
      InputError: `config.reference` or `config.fit_on` names no training row.
    """
    if config.site_calibration == "none":
        return None
    rows = cohort.rows("train")
    site = site_names(cohort)[rows]
    fit_on = None if cohort.fit_on is None else cohort.fit_on[rows]
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


def calibration_notes(calibration: SiteCalibration, names: tuple[str, ...]) -> list[str]:
    """Returns lines for the run's log: what is corrected, how strongly, and which features failed at a site."""
    notes = [calibration.summary()]
    for site, columns in calibration.describe()["unchanged"].items():
        notes.append(f"site {site}: {', '.join(names[one] for one in columns)} have one value there and stay unchanged")
    return notes


def site_names(cohort: Cohort) -> np.ndarray:
    """Returns the (N,) names of the rows' sites, "" where unknown."""
    return np.array([*cohort.site_names, ""])[cohort.site]
