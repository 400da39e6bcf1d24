"""Scores what a run hands back, beside the raw input and ComBat, for tables and volumes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort
from eqpool.evaluate.scorecard import COMBAT, RAW, TRUTH, make_scorecard
from eqpool.evaluate.scored_rows import ScoredRows, choose_rows
from eqpool.methods.combat_fit import fit_combat_on
from eqpool.methods.scored_voxels import CALIBRATED, ScoredVoxels

EQPOOL = "eqpool"


def score_volumes(cohort: Cohort, config: RunConfig, voxels: ScoredVoxels) -> dict[str, Any]:
    """Makes the scorecard of gathered voxels.

    ComBat is fitted on the gathered voxels of the scored training rows, unless it is what is handed back.
    """
    versions, rows = dict(voxels.versions), voxels.rows
    if COMBAT not in versions:
        fitted = np.flatnonzero(cohort.split[rows] == "train")
        combat = fit_combat_on(cohort, config, rows[fitted], versions[RAW][fitted])
        versions |= {} if combat is None else {COMBAT: combat.apply(versions[RAW], cohort.site_labels[rows])}
    return _score(cohort, config, rows, versions, voxels.handed_back, on_voxels=True)


def score_table(cohort: Cohort, config: RunConfig, change: np.ndarray | None, handed_back: str) -> dict[str, Any]:
    """Makes the scorecard of a table. Categories stay as they came in all versions, as they are handed back.

    Args:
      cohort: cohort with a table.
      config: config of the run.
      change: (N, F) change in z-scores of all rows' encoded features that is written, None if nothing is.
      handed_back: name of the version that the change makes.
    """
    table = cohort.table
    assert table is not None
    rows, train = choose_rows(cohort.split, cohort.participant_id, config.seed), cohort.rows("train")
    raw = table.encoded[rows]
    versions = {RAW: raw} | ({} if change is None else {handed_back: raw + change[rows]})
    if table.calibration is not None:
        versions[CALIBRATED] = np.asarray(cohort.inputs)[rows]
    if COMBAT not in versions:
        combat = fit_combat_on(cohort, config, train, table.encoded[train])
        versions |= {} if combat is None else {COMBAT: combat.apply(raw, cohort.site_labels[rows])}
    versions = {name: np.where(table.is_number, values, raw) for name, values in versions.items()}
    return _score(cohort, config, rows, versions, handed_back, on_voxels=False)


def _score(
    cohort: Cohort,
    config: RunConfig,
    rows: np.ndarray,
    versions: Mapping[str, np.ndarray],
    handed_back: str,
    *,
    on_voxels: bool,
) -> dict[str, Any]:
    """Scores all versions, in their order in the report."""
    ordered = {name: versions[name] for name in (RAW, COMBAT, CALIBRATED, EQPOOL, TRUTH) if name in versions}
    return make_scorecard(
        _scored_rows(cohort, rows),
        ordered,
        handed_back=handed_back if handed_back in ordered else "",
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
