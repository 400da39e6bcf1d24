"""Fits the site calibration that a config asks for on the training rows of a participants table."""

import numpy as np

from eqpool.config import DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.tables.calibration import SiteCalibration
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
    used = cohort.site_labels[cohort.learns_site_effects]
    if not used.size:
        raise InputError(f'config.data.fit_on = "{config.fit_on}": no training row with a known site, expected some')
    if config.reference and config.reference not in used:
        expected = ", ".join(np.unique(used).tolist())
        raise InputError(f'config.data.reference = "{config.reference}": expected a site of training rows: {expected}')
    return SiteCalibration.fit(
        inputs[rows],
        cohort.site_labels[rows],
        cohort.covariates[rows],
        cohort.target_columns[rows],
        method=config.site_calibration,
        reference=config.reference,
        fit_on=None if cohort.fit_on is None else cohort.fit_on[rows],
        subject=cohort.participant_id[rows],
    )


def calibration_notes(calibration: SiteCalibration, names: tuple[str, ...]) -> list[str]:
    """Returns lines for the run's log: what is corrected, how strongly, and which features failed at a site."""
    notes = [calibration.summary()]
    for site, columns in calibration.describe()["unchanged"].items():
        notes.append(f"site {site}: {', '.join(names[one] for one in columns)} have one value there and stay unchanged")
    return notes
