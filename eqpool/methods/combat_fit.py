"""Fits ComBat on the training rows of a cohort, for the method and for the rival that other methods are scored with."""

from collections.abc import Iterator

import numpy as np

from eqpool.config import DataConfig, RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.site_effects.combat import Combat
from eqpool.data.site_effects.moments import OpenStream, by_person
from eqpool.data.site_effects.voxel_chunks import voxel_chunks
from eqpool.data.tables.coding import UNKNOWN
from eqpool.errors import InputError
from eqpool.methods.derivatives import to_z_scores


def fit_combat(cohort: Cohort, config: RunConfig) -> Combat:
    """Fits ComBat on the training rows of a cohort, beside covariates and target.

    Volumes are streamed twice, so that memory does not grow with their number. `config.data.reference` and
    `config.data.fit_on` apply. Rows of one participant share a random effect. Of a table the numbers alone are
    harmonised.

    Raises:
      InputError: no training row has a known site, or none that `config.data.fit_on` selects, or fewer than two people
        are of the reference.
    """
    used = cohort.learns_site_effects
    _check(cohort, used, config.data)
    rows = by_person(np.flatnonzero(used), cohort.participant_id)
    return _fit(lambda: _chunks(cohort, config.data.squash, rows), cohort, used, config.data.reference)


def fit_combat_on(
    cohort: Cohort, config: RunConfig, rows: np.ndarray, values: np.ndarray, reference: str = ""
) -> Combat | None:
    """Fits ComBat as `fit_combat` does, on given values of some of the rows.

    Args:
      cohort: cohort of N rows.
      config: config of the run.
      rows: (n,) indices of rows.
      values: (n, F) encoded features of these rows, or voxels.
      reference: site whose look the others take, "" for `config.data.reference`.

    Returns:
      The estimates, None if none of the rows is learnt from. With fewer than two people of the reference, they have
      none.
    """
    used = cohort.learns_site_effects & np.isin(np.arange(len(cohort.site)), rows)
    if not used.any():
        return None
    learnt = used[rows]
    reference = reference or config.data.reference
    reference = reference if _num_people(cohort, used, reference) > 1 else ""
    return _fit(lambda: iter([(rows[learnt], values[learnt])]), cohort, used, reference)


def _fit(open_stream: OpenStream, cohort: Cohort, used: np.ndarray, reference: str) -> Combat:
    return Combat.fit_stream(
        open_stream,
        np.where(used, cohort.site_labels, UNKNOWN),
        cohort.covariates,
        cohort.target_columns,
        reference=reference,
        subject=cohort.participant_id,
        columns=None if cohort.table is None else cohort.table.is_number,
        shared_ratio=cohort.table is None,
    )


def _check(cohort: Cohort, used: np.ndarray, data: DataConfig) -> None:
    if not used.any():
        key = (
            f'config.data.fit_on = "{data.fit_on}"' if data.fit_on else f"config.data.site_column = {data.site_column}"
        )
        raise InputError(f"{key}: no training row with a known site, expected some")
    if data.reference and data.reference not in cohort.site_labels[used]:
        found = ", ".join(np.unique(cohort.site_labels[used]).tolist())
        raise InputError(f'config.data.reference = "{data.reference}": expected a site of the training rows, {found}')
    if data.reference and _num_people(cohort, used, data.reference) < 2:
        raise InputError(f'config.data.reference = "{data.reference}": one person to learn from, expected at least two')


def _num_people(cohort: Cohort, used: np.ndarray, site: str) -> int:
    return len(np.unique(cohort.participant_id[used & (cohort.site_labels == site)]))


def _chunks(cohort: Cohort, squash: bool, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Opens a stream of (rows, values): z-scores inside the mask, or the encoded features before any calibration."""
    if cohort.volumes is None:
        return iter([(rows, np.asarray(cohort.uncalibrated)[rows])])
    return voxel_chunks(lambda row: to_z_scores(cohort.uncalibrated[row], squash), rows, cohort.volumes.grid.mask)
