"""Fits the site calibration that a config asks for on the training rows of a table."""

import dataclasses

import numpy as np

from eqpool.config import DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.site_effects.combat import Combat
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.coding import UNKNOWN
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
      InputError: `config.reference` or `config.fit_on` names no training row, or ComBat is asked for.
    """
    if config.site_calibration == "none":
        return None
    if config.site_calibration == "combat":
        raise InputError(
            'config.data.site_calibration = "combat": expected another value for a table of participants, which '
            "config.method = combat harmonises by ComBat"
        )
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


def with_combat(cohort: Cohort) -> Cohort:
    """Returns the cohort of a public table whose features ComBat has corrected.

    Effects are learnt from the training rows, beside covariates and target. All rows are corrected about the mean
    training row, training rows too, because the target of the others is to be predicted. A public table does not say
    which columns are 0-1 columns of categories, so ComBat corrects all of them alike.
    """
    assert cohort.table is not None
    features = np.asarray(cohort.inputs)
    combat = Combat.fit(
        features,
        np.where(cohort.learns_site_effects, cohort.site_labels, UNKNOWN),
        cohort.covariates,
        cohort.target_columns,
        subject=cohort.participant_id,
        columns=cohort.table.is_number,
    )
    inputs = combat.apply(features, cohort.site_labels).astype(features.dtype)
    return dataclasses.replace(cohort, inputs=inputs, notes=(*cohort.notes, "ComBat corrects each site's features"))


def calibration_notes(calibration: SiteCalibration, names: tuple[str, ...]) -> list[str]:
    """Returns lines for the run's log: what is corrected, how strongly, and which features failed at a site."""
    notes = [calibration.summary()]
    for site, columns in calibration.describe()["unchanged"].items():
        notes.append(f"site {site}: {', '.join(names[one] for one in columns)} have one value there and stay unchanged")
    return notes
