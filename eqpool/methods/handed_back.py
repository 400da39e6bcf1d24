"""Scores what a run hands back, beside the raw input and ComBat, for tables and volumes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.reference_view import reference_views
from eqpool.evaluate.scorecard import COMBAT, RAW, TRUTH, TruthIs, make_scorecard
from eqpool.evaluate.scored_rows import ScoredRows, choose_rows
from eqpool.methods.combat_fit import fit_combat_on
from eqpool.methods.scored_voxels import CALIBRATED, ScoredVoxels

EQPOOL, ISTN = "eqpool", "istn"


def score_volumes(cohort: Cohort, config: RunConfig, voxels: ScoredVoxels) -> dict[str, Any]:
    """Makes the scorecard of gathered voxels.

    ComBat is fitted on the gathered voxels of the scored training rows, unless it is what is handed back. With a
    reference (`config.data.reference`) the truth is the same people as the reference shows them.
    """
    rows = voxels.rows
    truth_is: TruthIs = "scanner_free"
    if config.data.reference in cohort.site_names:
        voxels.versions.pop(TRUTH, None)
        views = reference_views(cohort, config.data, rows, config.data.reference)
        if views is not None:
            voxels.take_truth(views, squash=config.data.squash)
            truth_is = "as_reference"
    versions = dict(voxels.versions)
    if COMBAT not in versions:
        fitted = np.flatnonzero(cohort.split[rows] == "train")
        combat = fit_combat_on(cohort, config, rows[fitted], versions[RAW][fitted])
        versions |= {} if combat is None else {COMBAT: combat.apply(versions[RAW], cohort.site_labels[rows])}
    scored = _scored_rows(cohort, rows, _reference_that_stays(cohort, config, rows, versions, voxels.handed_back))
    return _score(scored, config, versions, voxels.handed_back, on_voxels=True, truth_is=truth_is)


def score_images(
    cohort: Cohort, config: RunConfig, rows: np.ndarray, versions: Mapping[str, np.ndarray], reference: int
) -> dict[str, Any]:
    """Makes the scorecard of images that were given the look of a reference site, whose own stay as they are.

    ComBat takes the same reference. Digits have no row of the target: their classes are the task models' matter, which
    see more than the principal components of pixels.

    Args:
      cohort: cohort of volumes or of other images.
      config: config of the run.
      rows: (N,) indices of the scored rows.
      versions: (N, V) voxels or pixels by the version's name; "truth" is the images as the reference shows them.
      reference: index of the reference site.
    """
    name, fitted = cohort.site_names[reference], np.flatnonzero(cohort.split[rows] == "train")
    combat = fit_combat_on(cohort, config, rows[fitted], versions[RAW][fitted], name)
    if combat is not None:
        versions = dict(versions) | {COMBAT: combat.apply(versions[RAW], cohort.site_labels[rows])}
    scored = _scored_rows(cohort, rows, reference)
    unit = "z-scores"
    if cohort.volumes is None:
        unknown, unit = np.full(len(rows), np.nan), "intensities from -1 to 1"
        scored = dataclasses.replace(scored, target=unknown, target_classes=(), target_name="")
    return _score(scored, config, versions, ISTN, on_voxels=True, truth_is="as_reference", unit=unit)


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
    scored = _scored_rows(cohort, rows, _reference_that_stays(cohort, config, rows, versions, handed_back))
    return _score(scored, config, versions, handed_back, on_voxels=False)


def _score(
    rows: ScoredRows,
    config: RunConfig,
    versions: Mapping[str, np.ndarray],
    handed_back: str,
    *,
    on_voxels: bool,
    truth_is: TruthIs = "scanner_free",
    unit: str = "z-scores",
) -> dict[str, Any]:
    """Scores all versions, in their order in the report."""
    ordered = {name: versions[name] for name in (RAW, COMBAT, CALIBRATED, EQPOOL, ISTN, TRUTH) if name in versions}
    return make_scorecard(
        rows,
        ordered,
        handed_back=handed_back if handed_back in ordered else "",
        on_voxels=on_voxels,
        config=config.evaluate,
        seed=config.seed,
        truth_is=truth_is,
        unit=unit,
    )


def _reference_that_stays(
    cohort: Cohort, config: RunConfig, rows: np.ndarray, versions: Mapping[str, np.ndarray], handed_back: str
) -> int:
    """Returns the index of `config.data.reference` if its rows are handed back as they came, else -1.

    The calibration and ComBat leave them alone, and networks may not.
    """
    if config.data.reference not in cohort.site_names or handed_back not in versions:
        return -1
    reference = cohort.site_names.index(config.data.reference)
    here = cohort.site[rows] == reference
    return reference if np.array_equal(versions[handed_back][here], versions[RAW][here]) else -1


def _scored_rows(cohort: Cohort, rows: np.ndarray, reference: int) -> ScoredRows:
    return ScoredRows(
        site=cohort.site[rows],
        covariates=cohort.covariates[rows],
        target=cohort.target[rows],
        target_classes=cohort.target_classes,
        subject=cohort.participant_id[rows],
        is_training=cohort.split[rows] == "train",
        covariate_name=cohort.covariate_names[0] if cohort.covariate_names else "",
        target_name=cohort.target_name,
        reference=reference,
        reference_name=cohort.site_names[reference] if reference >= 0 else "",
    )
