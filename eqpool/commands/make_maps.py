"""Makes statistical maps before and after pooling, for `eqpool.commands.maps`, which lists the output files."""

import pathlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.fingerprint import data_hash
from eqpool.data.load import load_cohort
from eqpool.data.sources.simulated import effect_path
from eqpool.data.volumes.image_files import read_volume
from eqpool.data.volumes.resampling import lay_on_grid
from eqpool.engine.compilation import use_compilation_cache
from eqpool.errors import InputError
from eqpool.evaluate.recovery import detection_gain, detection_scores, is_unaffected, matched_detection
from eqpool.evaluate.statistics import (
    indicators,
    is_estimable,
    partial_r_squared,
    significant,
    t_map,
    t_threshold,
    tile_width,
)
from eqpool.methods.base import method_named
from eqpool.methods.crossfit import Decodes, cross_fitted_decodes, deal_folds
from eqpool.methods.derivatives import read_map, write_map
from eqpool.methods.scored_voxels import scanner_free_brain
from eqpool.report.enough import too_few_degrees
from eqpool.report.formatting import format_metric
from eqpool.storage import files
from eqpool.storage.progress import track
from eqpool.storage.run_folder import RunFolder

_THRESHOLD = 1e-3  # threshold of Lokhande et al. 2022, Fig. 5, after Bonferroni
# Form -> weights of the input, of its decode D(l), of the pooled decode D(Psi(Phi(l))) and of the calibrated input.
# Those of the decodes "after" are multiplied by the scale of the change, so that the maps show what is handed back.
FORMS = {
    "before": (1.0, 0.0, 0.0, 0.0),
    "before_decoded": (0.0, 1.0, 0.0, 0.0),
    "after": (0.0, -1.0, 1.0, 1.0),
    "after_decoded": (0.0, 0.0, 1.0, 0.0),
}
Facts = dict[str, Any]
Truth = tuple[np.ndarray, np.ndarray]  # result of `judged_voxels`


def make_maps(folder: pathlib.Path, folds: int) -> Facts:
    """Trains, decodes, tests and writes the maps, and returns the content of maps/maps.json.

    Raises:
      InputError: the run does not exist, cannot decode, or allows no map.
    """
    run_folder = RunFolder(folder)
    config = run_folder.read_config()
    _check(config, folds)
    with run_folder.locked():
        return _make_maps(config, run_folder, folds)


def _make_maps(config: RunConfig, folder: RunFolder, folds: int) -> Facts:
    cache = use_compilation_cache(config, folder)
    cohort = load_cohort(config.data, cache)
    _check_data(folder, cohort)
    if cohort.volumes is None:
        raise InputError(f"--workdir={folder.path}: a run on a table, expected one on volumes")
    if len(cohort.target_classes) not in (0, 2):
        raise InputError(
            f"{cohort.target_name}: {len(cohort.target_classes)} classes ({', '.join(cohort.target_classes)}), "
            "expected two or a number for a t-map"
        )
    fold = deal_folds(config, cohort, folds)
    check_contrast(cohort, fold)  # before hours of training
    few = too_few_degrees(count_degrees_of_freedom(cohort, fold))
    if few:
        print(f"WARNING: the maps will mean little: {few}")
    decodes = cross_fitted_decodes(config, cohort, RunFolder(folder.folds / str(folds)), folds)
    truth = judged_voxels(cohort) if cohort.simulated else None

    def report(form: str) -> Facts:
        facts = map_form(cohort, decodes, form, folder.maps)
        return facts if truth is None else facts | _recovery(cohort, decodes, form, folder.maps, facts, truth)

    facts: Facts = {
        "folds": folds,
        "simulated": cohort.simulated,
        "contrast": _contrast_name(cohort),
        "threshold": _THRESHOLD,
        "forms": {name: report(name) for name in track(FORMS, "Maps", unit="form")},
    }
    if truth is not None:
        facts |= _gain(cohort, decodes, truth)
    files.write_json(folder.maps_file, facts)
    return facts


def _contrast_name(cohort: Cohort) -> str:
    """Returns the name of the contrast, such as "AD-CN" for classes, or the name of a numeric target."""
    return "-".join(cohort.target_classes) or cohort.target_name


def form_tiles(decodes: Decodes, form: str, rows: np.ndarray, voxels: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yields (R, T) tiles of the brain's voxels in one of `FORMS`, read lazily from the memory map.

    `voxels` (V,) bool selects voxels; None selects all.
    """
    weights, count, width = _weights(decodes, form, rows), decodes.values.shape[2], tile_width(len(rows))
    for start in track(range(0, count, width), f"Testing {form}", unit="tile"):
        tile = np.zeros((len(rows), min(width, count - start)))
        for weight, values in zip(weights, decodes.values, strict=True):
            if weight.any():
                tile += weight * values[:, start : start + width][rows]
        yield tile if voxels is None else tile[:, voxels[start : start + width]]


def _weights(decodes: Decodes, form: str, rows: np.ndarray) -> list[np.ndarray]:
    """Returns the (R, 1) weights of the input, of both decodes, and of the calibrated input."""
    scale = np.broadcast_to(decodes.change_scale, decodes.fold.shape)[rows, None] if form == "after" else 1.0
    ones = np.ones((len(rows), 1))
    return [weight * (scale if place in (1, 2) else 1.0) * ones for place, weight in enumerate(FORMS[form])]


def first_scans(cohort: Cohort, rows: np.ndarray) -> np.ndarray:
    """Selects the first row of each person, in order."""
    return rows[np.sort(np.unique(cohort.participant_id[rows], return_index=True)[1])]


def map_form(cohort: Cohort, decodes: Decodes, form: str, folder: pathlib.Path) -> Facts:
    """Writes one form's maps: t of the target, and partial R^2 of site, covariates and target.

    All models include the covariates and the folds as nuisance, because the offsets between the K networks' decodes are
    no effect. Each person counts once, as repeated visits treated as independent people would produce false effects. A
    regressor that is collinear with the others has no partial R^2 and is listed in `not_estimable`, for example the
    site if only one site has targets.
    """
    assert cohort.volumes is not None
    rows, contrast, nuisance = t_design(cohort, decodes.fold)
    t = t_map(form_tiles(decodes, form, rows), contrast, nuisance)
    found = {name: significant(t.p, name, _THRESHOLD) for name in ("bonferroni", "fdr")}  # type: ignore[arg-type]
    name = f"{form}_t_{files.file_name_part(_contrast_name(cohort))}"
    write_map(folder / f"{name}.nii.gz", t.t, cohort.volumes.grid)
    for correction, voxels in found.items():
        write_map(folder / f"{name}_{correction}.nii.gz", np.where(voxels, t.t, 0), cohort.volumes.grid)
    facts: Facts = {
        "rows": len(rows),
        "degrees_of_freedom": t.degrees_of_freedom,
        "voxels": t.t.size,
        "t_threshold_bonferroni": t_threshold(t.t.size, t.degrees_of_freedom, _THRESHOLD),
        **{f"voxels_{correction}": int(voxels.sum()) for correction, voxels in found.items()},
    }
    known = rows[cohort.site[rows] >= 0]
    design = {"site": indicators(cohort.site[known]), cohort.target_name: _contrast(cohort)[known][:, None]}
    design |= {name: cohort.covariates[known, index, None] for index, name in enumerate(cohort.covariate_names)}
    left_out = []
    for name, regressors in design.items():
        others = np.hstack([values for other, values in design.items() if other != name])
        nuisance = np.hstack([others, indicators(decodes.fold[known])])
        if not is_estimable(regressors, nuisance):
            left_out.append(name)
            continue
        share = partial_r_squared(form_tiles(decodes, form, known), regressors, nuisance)
        write_map(folder / f"{form}_r2_{files.file_name_part(name)}.nii.gz", share.r_squared, cohort.volumes.grid)
        facts[f"r2_{name}_mean"] = float(share.r_squared.mean())
        facts[f"r2_{name}_by_chance"] = share.by_chance
        facts[f"r2_{name}_voxels_bonferroni"] = int(significant(share.p, "bonferroni", _THRESHOLD).sum())
    return facts | {"not_estimable": left_out}


def _recovery(cohort: Cohort, decodes: Decodes, form: str, folder: pathlib.Path, mapped: Facts, truth: Truth) -> Facts:
    """Compares a form's map, with facts `mapped`, and its volumes to the simulated truth."""
    assert cohort.volumes is not None
    mask, (judged, affected) = cohort.volumes.grid.mask, truth
    name = f"{form}_t_{files.file_name_part(_contrast_name(cohort))}"
    t, found = (read_map(folder / f"{end}.nii.gz")[mask][judged] for end in (name, f"{name}_fdr"))
    facts: Facts = {"truth_voxels": int(affected.sum()), "unaffected_voxels": int((~affected).sum())}
    facts |= matched_detection(np.abs(t), affected)
    facts |= {f"{score}_fdr": value for score, value in detection_scores(found != 0, affected).items()}
    strict = np.abs(t) > mapped["t_threshold_bonferroni"]
    facts |= {f"{score}_bonferroni": value for score, value in detection_scores(strict, affected).items()}
    errors = []
    for row in range(len(cohort.site)):
        weights = [float(weight[0, 0]) for weight in _weights(decodes, form, np.array([row]))]
        volume = np.tensordot(weights, decodes.values[:, row].astype(np.float64), axes=1)
        errors.append(float(np.sqrt(np.mean((volume - scanner_free_brain(cohort, row)) ** 2))))
    return facts | {"recovery_error": float(np.mean(errors))}


def judged_voxels(cohort: Cohort) -> Truth:
    """Returns the voxels of the brain by which a map is judged (V,), and which of those voxels are truly affected.

    The simulated disease thins all cortex slightly. A map is judged by strongly affected voxels (disease_mask) and by
    unaffected ones. Voxels in between count neither as hits nor as false alarms.
    """
    assert cohort.volumes is not None
    grid, image = cohort.volumes.grid, pathlib.Path(cohort.volumes.image_path[0])
    affected, effect = (
        np.abs(lay_on_grid(read_volume(effect_path(image, name)), grid)) for name in ("disease_mask", "disease_effect")
    )
    mask = grid.mask
    judged = (affected[mask] > 0.5) | is_unaffected(effect[mask])
    return judged, affected[mask][judged] > 0.5


def _gain(cohort: Cohort, decodes: Decodes, truth: Truth) -> Facts:
    """Computes how many more truly affected voxels are found after pooling, with its interval over people."""
    rows, contrast, nuisance = t_design(cohort, decodes.fold)
    judged, affected = truth
    before, after = (partial(form_tiles, decodes, form, rows, judged) for form in ("before", "after"))
    return detection_gain(before, after, contrast, nuisance, affected, cohort.participant_id[rows])


def _check(config: RunConfig, folds: int) -> None:
    if not method_named(config.method).decodes:
        raise InputError(f'config.method = "{config.method}": expected "ours", which alone decodes what it pooled')
    if folds < 2:
        raise InputError(f"--folds={folds}: expected at least 2")


def _check_data(folder: RunFolder, cohort: Cohort) -> None:
    if folder.is_of_other_data(data_hash(cohort)):
        raise InputError(
            f"--workdir={folder.path} was made with other data than there are now, so that maps would not be of that "
            "run; name another --workdir and run again"
        )


def check_contrast(cohort: Cohort, fold: np.ndarray) -> None:
    """Raises `InputError` if the target's t-map is not defined given covariates and folds (N,)."""
    rows, contrast, nuisance = t_design(cohort, fold)
    if not is_estimable(contrast[:, None], nuisance):
        raise InputError(
            f"{cohort.target_name}: constant, or determined by {', '.join(cohort.covariate_names)}, in the {len(rows)} "
            "people with a known target, expected one that a t-map can separate from the covariates"
        )


def count_degrees_of_freedom(cohort: Cohort, fold: np.ndarray) -> int:
    """Computes the degrees of freedom of the target's t-map given covariates and folds (N,)."""
    rows, contrast, nuisance = t_design(cohort, fold)
    return len(rows) - int(np.linalg.matrix_rank(np.column_stack([np.ones(len(rows)), contrast, nuisance])))


def t_design(cohort: Cohort, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a t-map's design: first scans with a known target (R,), their contrast (R,) and the nuisance (R, C)."""
    rows = first_scans(cohort, np.flatnonzero(cohort.target_known))
    return rows, _contrast(cohort)[rows], np.hstack([cohort.covariates[rows], indicators(fold[rows])])


def _contrast(cohort: Cohort) -> np.ndarray:
    """Returns the contrast (N,) float64: 1 for the first class and 0 for the second, or the numeric target."""
    return (cohort.target == 0).astype(np.float64) if cohort.target_classes else cohort.target.astype(np.float64)


def describe_maps(facts: Facts) -> str:
    """Formats the facts as a table with one column for each form."""
    kind = "SIMULATED data" if facts["simulated"] else "real data"
    first = next(iter(facts["forms"].values()))
    columns = [name for name in first if name not in ("rows", "voxels", "not_estimable")]
    lines = [f"{facts['contrast']} ({kind}), {facts['folds']} folds, p < {facts['threshold']:g} corrected:"]
    lines.append(f"  {'':<34}" + "".join(f"{form:>16}" for form in facts["forms"]))
    for name in columns:
        cells = "".join(f"{form[name]:>16.4g}" for form in facts["forms"].values())
        lines.append(f"  {name:<34}{cells}")
    if "sensitivity_gain" in facts:
        lines.append(f"  after less before, found at the matched rate: {format_metric(facts, 'sensitivity_gain')}")
    if first["not_estimable"]:
        names = ", ".join(first["not_estimable"])
        lines.append(
            f"  {names}: determined by the others in the {first['rows']} people with a known target, hence no map"
        )
    return "\n".join(lines)
