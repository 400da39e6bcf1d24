"""Scores what a run hands back, beside the raw input and ComBat, for tables and volumes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.site_effects.combat import Combat
from eqpool.data.tables.coding import UNKNOWN
from eqpool.data.tables.inputs import TableInputs
from eqpool.data.tables.targets import target_columns
from eqpool.evaluate.scorecard import COMBAT, RAW, make_scorecard
from eqpool.evaluate.scored_rows import ScoredRows, choose_rows
from eqpool.methods.scored_voxels import ScoredVoxels

CALIBRATED, HANDED_BACK = "calibrated", "eqpool"


def score_volumes(cohort: Cohort, config: RunConfig, voxels: ScoredVoxels) -> dict[str, Any]:
    """Makes the scorecard of gathered voxels, whose version "eqpool", if there is one, is handed back."""
    return _score(cohort, config, voxels.rows, voxels.versions, on_voxels=True)


def score_table(cohort: Cohort, config: RunConfig, change: np.ndarray | None) -> dict[str, Any]:
    """Makes the scorecard of a table.

    Args:
      cohort: cohort with a table.
      config: config of the run.
      change: (N, F) change in z-scores of all rows' encoded features that is written, None if nothing is.
    """
    table = cohort.table
    assert table is not None
    rows = choose_rows(cohort.split, cohort.participant_id, config.seed)
    raw = table.encoded[rows]
    versions = {RAW: raw}
    if table.calibration is not None:
        versions[CALIBRATED] = np.where(numbers_of(table), np.asarray(cohort.inputs)[rows], raw)
    if change is not None:
        versions[HANDED_BACK] = np.where(numbers_of(table), raw + change[rows], raw)
    return _score(cohort, config, rows, versions, on_voxels=False)


def numbers_of(table: TableInputs) -> np.ndarray:
    """Returns which encoded features are numbers, (F,) bool. Categories are handed back as they came."""
    if table.encoding is None:
        return np.ones(table.encoded.shape[1], bool)
    return np.isin(table.input_names, [column.name for column in table.encoding.numbers])


def _score(
    cohort: Cohort, config: RunConfig, rows: np.ndarray, versions: Mapping[str, np.ndarray], *, on_voxels: bool
) -> dict[str, Any]:
    """Adds ComBat, fitted on the scored training rows, and scores all versions in their order in the report."""
    scored = _scored_rows(cohort, rows)
    changed = np.ones(versions[RAW].shape[1], bool) if cohort.table is None else numbers_of(cohort.table)
    combat = _combat(cohort, rows, versions[RAW], changed)
    named = {name: version for name, version in versions.items() if name != RAW}
    ordered = {RAW: versions[RAW]} | ({} if combat is None else {COMBAT: combat})
    ordered |= {name: named[name] for name in (CALIBRATED, HANDED_BACK, *named) if name in named}
    return make_scorecard(
        scored,
        ordered,
        handed_back=HANDED_BACK if HANDED_BACK in ordered else "",
        on_voxels=on_voxels,
        config=config.evaluate,
        seed=config.seed,
    )


def _scored_rows(cohort: Cohort, rows: np.ndarray) -> ScoredRows:
    return ScoredRows(
        site=cohort.site[rows],
        covariates=cohort.covariates[rows],
        target=cohort.target[rows],
        target_classes=cohort.target_classes,
        subject=cohort.participant_id[rows],
        is_training=cohort.split[rows] == "train",
        covariate_name=cohort.covariate_names[0] if cohort.covariate_names else "",
        target_name=cohort.target_name,
    )


def _combat(cohort: Cohort, rows: np.ndarray, raw: np.ndarray, changed: np.ndarray) -> np.ndarray | None:
    """Returns the rows as ComBat harmonises them with the estimates of the training rows, None without known sites.

    Covariates and target are kept. As for what is handed back, neither is asked for when it is applied.
    """
    site = np.array([*cohort.site_names, UNKNOWN])[cohort.site[rows]]
    train = cohort.split[rows] == "train"
    if not (site[train] != UNKNOWN).any() or not changed.any():
        return None
    fitted = rows[train]
    columns = target_columns(cohort.target[fitted], cohort.target_known[fitted], len(cohort.target_classes))
    combat = Combat.fit(raw[train][:, changed], site[train], cohort.covariates[fitted], columns)
    harmonised = raw.copy()
    harmonised[:, changed] = combat.apply(raw[:, changed], site)
    return harmonised
