"""A cohort from a participants table: the user's own, or a simulated one read through the same door."""

import dataclasses
import pathlib

import numpy as np
import pandas as pd

from eqpool.config import DataConfig, split_names
from eqpool.data.checks import check_cohort
from eqpool.data.cohort import SPLITS, Cohort
from eqpool.data.grids import named_grid
from eqpool.data.images import find_images
from eqpool.data.participants import (
    ID_COLUMN,
    ParticipantsTable,
    check_duplicates,
    parse_classes,
    parse_numbers,
    parse_target,
    read_participants,
    select_features,
)
from eqpool.data.splits import assign_splits
from eqpool.data.store import prepare_volumes
from eqpool.data.tables import FeatureEncoding, fit_encoding
from eqpool.errors import InputError

_TARGET_LEVELS = 3  # a numeric target is stratified by thirds


def load_participants(
    config: DataConfig, cache_dir: pathlib.Path, progress: bool, *, simulated: bool = False
) -> tuple[Cohort, FeatureEncoding | None]:
    """The cohort of `config.participants`, and for a table how its features were encoded.

    Rows without a covariate are left out; rows without site or target are kept and marked; both are noted.

    Raises:
      InputError: one line naming file, row and column; see `participants`, `images`, `volumes` and `checks`.
    """
    path = pathlib.Path(config.participants).expanduser()
    _check_roles(config)
    table = read_participants(path)
    for name in (config.site_column, *split_names(config.covariates), config.target):
        table.require(name, "config.data")
    check_duplicates(table)
    table, notes = _with_covariates(table, config)
    cohort = _without_inputs(table, config, simulated)
    notes += _missing_notes(cohort, config)
    check_cohort(cohort, str(path), site_column=config.site_column)  # before hours of volumes
    if config.features:
        return _with_features(cohort, table, config, notes)
    cohort = _with_volumes(cohort, table, config, cache_dir, progress, notes)
    check_cohort(cohort, str(path), site_column=config.site_column)
    return cohort, None


def _check_roles(config: DataConfig) -> None:
    roles = [config.site_column, *split_names(config.covariates), config.target]
    if not split_names(config.covariates):
        raise InputError('config.data.covariates = "": expected at least one column, such as age')
    for name in roles:
        if not name or roles.count(name) > 1 or name == ID_COLUMN:
            raise InputError(
                f'config.data: "{name}" as one of site_column, covariates and target; expected different columns'
            )


def _with_covariates(table: ParticipantsTable, config: DataConfig) -> tuple[ParticipantsTable, list[str]]:
    """The rows that have every covariate."""
    names = split_names(config.covariates)
    values = np.stack([parse_numbers(table, name) for name in names], axis=1)
    complete = np.flatnonzero(np.isfinite(values).all(axis=1))
    left_out = len(values) - complete.size
    if not complete.size:
        raise InputError(f"{table.path}, column {', '.join(names)}: every row lacks a covariate, expected numbers")
    note = f"left out {left_out} of {len(values)} rows without {' or '.join(names)}"
    return table.take(complete), [f"{len(values)} rows in {table.path}"] + ([note] if left_out else [])


def _without_inputs(table: ParticipantsTable, config: DataConfig, simulated: bool) -> Cohort:
    names = split_names(config.covariates)
    site, site_names = parse_classes(table.frame[config.site_column])
    target, classes = parse_target(table, config.target, config.target_type)
    return Cohort(
        name=config.dataset if simulated else "participants",
        simulated=simulated,
        participant_id=table.frame[ID_COLUMN].to_numpy(dtype=np.str_),
        inputs=np.zeros((len(table.frame), 0), np.float32),
        input_names=(),
        site=site,
        site_names=site_names,
        covariates=np.stack([parse_numbers(table, name) for name in names], axis=1),
        covariate_names=names,
        target=target,
        target_name=config.target,
        target_classes=classes,
        split=_splits(table, config, site, target, classes),
    )


def _splits(
    table: ParticipantsTable, config: DataConfig, site: np.ndarray, target: np.ndarray, classes: tuple[str, ...]
) -> np.ndarray:
    if "split" in table.frame:
        return _given_splits(table)
    return assign_splits(
        table.frame[ID_COLUMN].to_numpy(dtype=np.str_),
        list(zip(site.tolist(), _levels(target, classes).tolist(), strict=True)),
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        seed=config.split_seed,
    )


def _levels(target: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """What to balance: the class, or the third that a number falls in."""
    if classes or not np.isfinite(target).any():
        return target.astype(np.int64) if classes else np.zeros(target.shape, np.int64)
    edges = np.nanquantile(target, np.arange(1, _TARGET_LEVELS) / _TARGET_LEVELS)
    return np.where(np.isfinite(target), np.searchsorted(edges, target), -1)


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
    unknown = cohort.target < 0 if cohort.target_classes else ~np.isfinite(cohort.target)
    notes = [f"{unknown_site} rows without {config.site_column} are kept, their site unknown"] if unknown_site else []
    if unknown.any():
        notes.append(f"{int(unknown.sum())} rows without {config.target} are kept, their target unknown")
    kind = f"{len(cohort.target_classes)} classes" if cohort.target_classes else "a number"
    return [*notes, f"target {config.target} is read as {kind}"]


def _with_features(
    cohort: Cohort, table: ParticipantsTable, config: DataConfig, notes: list[str]
) -> tuple[Cohort, FeatureEncoding]:
    roles = (config.site_column, *split_names(config.covariates), config.target)
    frame = select_features(table, split_names(config.features), roles)
    encoding = fit_encoding(frame, cohort.rows("train"))
    notes = [*notes, f"{len(frame.columns)} feature columns", *_feature_notes(frame)]
    encoded = dataclasses.replace(
        cohort, inputs=encoding.apply(frame), input_names=encoding.input_names, notes=tuple(notes)
    )
    return encoded, encoding


def _feature_notes(frame: pd.DataFrame) -> list[str]:
    numbers = frame.select_dtypes("float64")
    notes: list[str] = []
    missing = int(numbers.isna().to_numpy().sum())
    if missing:
        notes.append(f"{missing} missing feature values are set to the training mean")
    # A failed parcel of FreeSurfer stands as 0 in a column that is positive everywhere else.
    mostly_positive = (numbers > 0).mean() > 0.95
    zeros = int((numbers.loc[:, mostly_positive] == 0).to_numpy().sum())
    if zeros:
        notes.append(f"{zeros} feature values are exactly 0 in columns that are positive elsewhere: failed parcels?")
    return notes


def _with_volumes(
    cohort: Cohort,
    table: ParticipantsTable,
    config: DataConfig,
    cache_dir: pathlib.Path,
    progress: bool,
    notes: list[str],
) -> Cohort:
    grid = named_grid(config.grid)
    root = pathlib.Path(config.root).expanduser() if config.root else table.path.parent
    prepared = prepare_volumes(
        find_images(table, root),
        grid,
        cache_dir,
        config.on_bad_volume,
        config.workers,
        progress,
        labels=[table.where(row) for row in range(len(table.frame))],
        squash=config.squash,
    )
    kept = prepared.kept
    return dataclasses.replace(
        cohort,
        participant_id=cohort.participant_id[kept],
        inputs=prepared.inputs,
        site=cohort.site[kept],
        covariates=cohort.covariates[kept],
        target=cohort.target[kept],
        split=cohort.split[kept],
        grid=grid,
        notes=(*notes, *prepared.notes),
    )
