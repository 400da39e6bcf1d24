"""Loads a cohort from a participants table, the user's own or a simulated one."""

import dataclasses
import pathlib

import numpy as np
import pandas as pd

from eqpool.config import COHORTS, DataConfig
from eqpool.config.names import split_names
from eqpool.data.cohort import SPLITS, Cohort
from eqpool.data.preflight.features import examine_features, failed_values
from eqpool.data.preflight.finding import Finding
from eqpool.data.preflight.requirements import check_cohort
from eqpool.data.sources.table_calibration import calibration_notes, fit_table_calibration
from eqpool.data.sources.volume_calibration import (
    calibrate_volumes,
    check_volume_calibration,
    volume_calibration_notes,
)
from eqpool.data.splits import assign_splits, balanced_strata
from eqpool.data.tables.covariates import Covariates, parse_specs, read_covariates, read_described, read_nuisances
from eqpool.data.tables.encoding import fit_encoding
from eqpool.data.tables.fit_on import rows_labelled
from eqpool.data.tables.inputs import TableInputs
from eqpool.data.tables.levels import code_labels
from eqpool.data.tables.participants import (
    ID_COLUMN,
    ParticipantsTable,
    check_duplicates,
    parse_target,
    read_participants,
    select_features,
    sessions,
)
from eqpool.data.volumes.bids_names import names_in_table
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.inputs import VolumeInputs
from eqpool.data.volumes.locate import find_images
from eqpool.data.volumes.preparation import Preparation
from eqpool.data.volumes.prepare import prepare_volumes
from eqpool.errors import InputError, to_path


def load_participants(
    config: DataConfig, cache_dir: pathlib.Path, progress: bool, *, simulated: bool = False
) -> Cohort:
    """Loads the cohort of `config.participants`.

    Rows without a covariate are left out. Rows without site or target are kept and marked. The cohort's notes report
    both.

    Raises:
      InputError: if the table, an image or the design cannot be used, in one line that names file, row and column.
    """
    path = to_path(config.participants)
    whole, table, cohort = _read_design(config, simulated)
    check_cohort(cohort, str(path), site_column=config.site_column)  # before hours of preparing volumes
    if config.features:
        return _with_features(cohort, table, config)
    check_volume_calibration(config)
    cohort = _with_volumes(cohort, whole, table, config, cache_dir, progress)
    check_cohort(cohort, str(path), site_column=config.site_column)
    return cohort


def load_design(config: DataConfig) -> Cohort:
    """Loads the cohort without its inputs, with findings on its features if `config.features` names any.

    This is for the pre-flight check alone. Volumes are not read, `config.target` may be "", and only an unreadable
    table is refused.

    Raises:
      InputError: if the table cannot be read, in one line that names file, row and column.
    """
    _, table, cohort = _read_design(config, simulated=False)
    if not config.features:
        return cohort
    frame = _feature_frame(table, config)
    return dataclasses.replace(cohort, findings=_findings(frame, cohort))


def _read_design(config: DataConfig, simulated: bool) -> tuple[ParticipantsTable, ParticipantsTable, Cohort]:
    """Returns the whole table, its rows that have every covariate, and the cohort of these rows."""
    _check_roles(config)
    nuisances = split_names(config.nuisances)
    whole = read_participants(to_path(config.participants))
    for name in _roles(config):
        whole.require(name, "config.data")
    check_duplicates(whole)
    table, covariates, notes = _with_covariates(whole, config)
    site, site_names = code_labels(table.names_in(config.site_column))
    target, classes = _target(table, config)
    nuisance, levels = read_nuisances(table, nuisances) if nuisances else (None, ())
    described, visits = split_names(config.described), sessions(table)
    cohort = Cohort(
        name=config.dataset if simulated or config.dataset in COHORTS else "participants",
        simulated=simulated,
        participant_id=table.frame[ID_COLUMN].to_numpy(dtype=np.str_),
        inputs=np.zeros((len(table.frame), 0), np.float32),
        site=site,
        site_names=site_names,
        covariates=covariates.values,
        covariate_names=covariates.names,
        first_levels=covariates.first_levels,
        target=target,
        target_name=config.target,
        target_classes=classes,
        split=_splits(table, config, site, target, classes),
        nuisance=nuisance,
        nuisance_names=nuisances,
        nuisance_levels=levels,
        described=read_described(table, described) if described else None,
        described_names=described,
        session=np.array(visits, np.str_) if any(visits) else None,
        fit_on=rows_labelled(table, config.fit_on) if config.fit_on else None,
    )
    labels = _label_notes(whole, config, cohort)
    return whole, table, dataclasses.replace(cohort, notes=(*notes, *labels, *_missing_notes(cohort, config)))


def _target(table: ParticipantsTable, config: DataConfig) -> tuple[np.ndarray, tuple[str, ...]]:
    if not config.target:
        return np.full(len(table.frame), np.nan, np.float32), ()
    return parse_target(table, config.target, config.target_type)


def _label_notes(whole: ParticipantsTable, config: DataConfig, cohort: Cohort) -> list[str]:
    """Returns lines on the columns of labels: words read as missing, and spellings read as one label."""
    categories = [spec.name for spec in parse_specs(config.covariates) if spec.categorical]
    target = [config.target] if cohort.target_classes else []
    columns = [config.site_column, *categories, *target, *cohort.nuisance_names]
    return [note for column in columns for note in whole.label_notes(column)]


def _roles(config: DataConfig) -> tuple[str, ...]:
    """Returns the columns of site, covariates, target and nuisances, which cannot be features."""
    covariates = tuple(spec.name for spec in parse_specs(config.covariates))
    target = (config.target,) if config.target else ()
    return (config.site_column, *covariates, *target, *split_names(config.nuisances))


def _feature_frame(table: ParticipantsTable, config: DataConfig) -> pd.DataFrame:
    barred = (*_roles(config), *split_names(config.described))
    return select_features(table, split_names(config.features), barred)


def _check_roles(config: DataConfig) -> None:
    roles = _roles(config)
    if not parse_specs(config.covariates):
        raise InputError('config.data.covariates = "": expected at least one column, such as age')
    for name in roles:
        if not name or roles.count(name) > 1 or name == ID_COLUMN:
            raise InputError(
                f'config.data: "{name}" as one of site_column, covariates, target and nuisances; expected different '
                "columns"
            )


def _with_covariates(table: ParticipantsTable, config: DataConfig) -> tuple[ParticipantsTable, Covariates, list[str]]:
    """Returns the rows that have every covariate, their covariates, and notes."""
    specs = parse_specs(config.covariates)
    covariates = read_covariates(table, specs)
    names = [spec.name for spec in specs]
    complete = np.flatnonzero(np.isfinite(covariates.values).all(axis=1))
    rows = len(covariates.values)
    if not complete.size:
        raise InputError(f"{table.path}, column {', '.join(names)}: every row lacks a covariate, expected numbers")
    notes = [f"{rows} rows in {table.path}", *covariates.notes]
    if complete.size < rows:
        notes.append(f"left out {rows - complete.size} of {rows} rows without {' or '.join(names)}")
    return table.take(complete), covariates._replace(values=covariates.values[complete]), notes


def _splits(
    table: ParticipantsTable, config: DataConfig, site: np.ndarray, target: np.ndarray, classes: tuple[str, ...]
) -> np.ndarray:
    if "split" in table.frame:
        return _given_splits(table)
    by_both = config.balance == "site_and_target"
    return assign_splits(
        table.frame[ID_COLUMN].to_numpy(dtype=np.str_),
        balanced_strata(site, target, classes) if by_both else [(one,) for one in site.tolist()],
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        seed=config.split_seed,
    )


def _given_splits(table: ParticipantsTable) -> np.ndarray:
    split_of: dict[str, str] = {}
    for row, (name, split) in enumerate(zip(table.frame[ID_COLUMN], table.frame["split"], strict=True)):
        if split not in SPLITS:
            raise InputError(f'{table.where(row, "split")}: "{split or "n/a"}", expected one of {", ".join(SPLITS)}')
        if split_of.setdefault(name, split) != split:
            raise InputError(
                f"{table.where(row, 'split')}: {split}, but another scan of this participant is in {split_of[name]}; "
                "expected one split a participant"
            )
    return table.frame["split"].to_numpy(dtype="<U10")


def _missing_notes(cohort: Cohort, config: DataConfig) -> list[str]:
    unknown_site = int((cohort.site < 0).sum())
    unknown = ~cohort.target_known
    notes = [f"{unknown_site} rows without {config.site_column} are kept, their site unknown"] if unknown_site else []
    if unknown.any() and config.target:
        notes.append(f"{int(unknown.sum())} rows without {config.target} are kept, their target unknown")
    kind = f"{len(cohort.target_classes)} classes" if cohort.target_classes else "a number"
    return [*notes, f"target {config.target} is read as {kind}"] if config.target else notes


def _with_features(cohort: Cohort, table: ParticipantsTable, config: DataConfig) -> Cohort:
    frame = _feature_frame(table, config)
    encoding = fit_encoding(frame, cohort.rows("train"))
    encoded = encoding.apply(frame)
    calibration = fit_table_calibration(encoded, cohort, config)
    notes = [] if calibration is None else calibration_notes(calibration, encoding.input_names)
    return dataclasses.replace(
        cohort,
        inputs=encoded if calibration is None else calibration.apply(encoded, cohort.site_labels),
        table=TableInputs(encoding.input_names, encoded, encoding, calibration, frame),
        notes=(*cohort.notes, f"{len(frame.columns)} feature columns", *_feature_notes(frame), *notes),
        findings=_findings(frame, cohort),
    )


def _findings(frame: pd.DataFrame, cohort: Cohort) -> tuple[Finding, ...]:
    return tuple(examine_features(frame, cohort.participant_id))


def _feature_notes(frame: pd.DataFrame) -> list[str]:
    notes: list[str] = []
    missing = int(frame.select_dtypes("float64").isna().to_numpy().sum())
    if missing:
        notes.append(f"{missing} missing feature values are set to the training mean")
    # A failed parcel of FreeSurfer is 0 in a column that is positive everywhere else.
    zeros = int(failed_values(frame).sum())
    if zeros:
        notes.append(f"{zeros} feature values are exactly 0 in columns that are positive elsewhere: failed parcels?")
    return notes


def _scan_names(whole: ParticipantsTable, table: ParticipantsTable, images: list[pathlib.Path]) -> np.ndarray:
    """Returns the scan names of the rows of `table`, (N,).

    Names are made for the whole table, so that they do not depend on the rows that are left out. The file of a row that
    is left out is known only from a `path` column. Without that column, BIDS layout ensures that no two rows share a
    name.
    """
    here = np.flatnonzero(np.isin(whole.line, table.line))
    files = whole.frame["path"].tolist() if "path" in whole.frame else [""] * len(whole.frame)
    for row, image in zip(here, images, strict=True):
        files[row] = str(image)
    return np.array(names_in_table(whole, files))[here]


def _with_volumes(
    cohort: Cohort,
    whole: ParticipantsTable,
    table: ParticipantsTable,
    config: DataConfig,
    cache_dir: pathlib.Path,
    progress: bool,
) -> Cohort:
    grid = named_grid(config.grid)
    root = to_path(config.root) if config.root else table.path.parent
    images = find_images(table, root, outside_root=config.outside_root)
    prepared = prepare_volumes(
        images,
        Preparation(grid, config.squash, config.align),
        cache_dir,
        config.on_bad_volume,
        config.workers,
        progress,
        labels=table.labels,
    )
    kept = prepared.kept
    cohort = dataclasses.replace(
        cohort.take(kept),
        inputs=prepared.inputs,
        volumes=VolumeInputs(
            grid=grid,
            image_path=np.array([str(path) for path in images])[kept],
            image_root=str(root),
            scan_name=_scan_names(whole, table, images)[kept],
            mask_overlap=prepared.overlap,
            tissue_mean=prepared.tissue_mean,
            tissue_deviation=prepared.tissue_deviation,
            alignment=prepared.alignment,
        ),
        notes=(*cohort.notes, *prepared.notes),
        findings=prepared.findings,
    )
    cohort = calibrate_volumes(cohort, config)
    return dataclasses.replace(cohort, notes=(*cohort.notes, *volume_calibration_notes(cohort, config)))
