"""The work behind `eqpool harmonise`: reads a table, fits a correction, scores it on held-out people, and writes."""

import argparse
import pathlib
import time
import warnings

import numpy as np
import pandas as pd

from eqpool.commands.table_corrections import Columns, fit_correction
from eqpool.config import EvaluateConfig
from eqpool.config.names import split_names
from eqpool.data.splits import assign_splits, balanced_strata
from eqpool.data.tables.coding import UNKNOWN
from eqpool.data.tables.covariates import parse_specs, read_covariates
from eqpool.data.tables.fit_on import rows_labelled
from eqpool.data.tables.levels import code_labels
from eqpool.data.tables.participants import ID_COLUMN, ParticipantsTable, parse_target, read_table, select_features
from eqpool.errors import InputError
from eqpool.evaluate.scorecard import COMBAT, RAW, make_scorecard
from eqpool.evaluate.scored_rows import ScoredRows, choose_rows
from eqpool.report.score_page import write_score_page
from eqpool.report.score_table import describe_scorecard
from eqpool.report.summary import describe_paths, describe_verdict
from eqpool.storage.files import write_atomically, write_json

_HELD_OUT = 0.2
_NAMES = {"calibrate": "eqpool", "combat": COMBAT, "ours": "eqpool"}


def harmonise(options: argparse.Namespace) -> None:
    """Harmonises `options.table` and prints the scorecard and what was written.

    Raises:
      InputError: bad flags or a bad table, in one line.
    """
    started = time.monotonic()
    table = read_table(options.table)
    columns = read_columns(table, options)
    new = None if options.new is None else _read_new(read_table(options.new), columns, options)
    print(f"{options.table}: {len(table.frame)} rows, {len(columns.sites)} sites, {columns.features.shape[1]} features")
    for note in columns.notes:
        print(f"  note: {note}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        everyone = np.arange(len(columns.site))
        correction = fit_correction(options.method, columns, everyone, options.reference, options.seed)
        written = {options.output: _written(table, columns.features, correction.apply(columns.features, columns.site))}
        if new is not None:
            new_table, features, site = new
            written[options.new_output] = _written(new_table, features, correction.apply(features, site))
    for message in dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning)):
        print(f"  warning: {message}")
    card = score(columns, options)
    for path, frame in written.items():
        _write_table(path, frame)
    if options.save:
        correction.save(options.save)
    scores = options.output.with_name(f"{options.output.stem}_scorecard.json")
    write_json(scores, card)
    page = scores.with_suffix(".html")
    write_score_page(page, card, options.table.name, options.method, correction.change_scale)
    print("\n".join(describe_scorecard(card)))
    contents = {path: "the harmonised table" for path in written} | {page: "the scorecard, as a page"}
    contents |= {scores: "the scorecard, in numbers"} | ({options.save: "the correction"} if options.save else {})
    print(describe_paths(contents, f"written after {time.monotonic() - started:.0f} s:"))
    print("\n".join(describe_verdict(card, correction.change_scale)))
    print(f"report: {page}")


def read_columns(table: ParticipantsTable, options: argparse.Namespace) -> Columns:
    """Reads sites, covariates, target, people and features of a table.

    Raises:
      InputError: a column is missing, has a value that cannot be read, or is no feature.
    """
    table.require(options.site, "--site")
    site = table.names_in(options.site)
    known = np.unique(site[site != UNKNOWN])
    if len(known) < 2:
        raise InputError(
            f"{table.path}, column {options.site} (--site): {len(known)} site, expected at least two to harmonise"
        )
    specs = parse_specs(options.keep, "--keep")
    for spec in specs:
        table.require(spec.name, "--keep")
    specs = tuple(sorted(specs, key=lambda spec: spec.categorical))  # the scorecard reads the first, a number
    _check_roles(options, [spec.name for spec in specs])
    kept = read_covariates(table, specs, "--keep") if specs else None
    values = np.zeros((len(site), 0)) if kept is None else kept.values
    for row, column in np.argwhere(~np.isfinite(values))[:1]:
        name = kept.names[column].partition("=")[0] if kept else ""
        raise InputError(f"{table.where(int(row), name)} (--keep): missing, expected a value in every row")
    target: np.ndarray = np.full(len(site), np.nan, np.float32)
    classes: tuple[str, ...] = ()
    if options.target:
        table.require(options.target, "--target")
        target, classes = parse_target(table, options.target, "auto")
    patterns = split_names(options.features)
    if not patterns:
        raise InputError(f'--features="{options.features}": empty, expected columns or patterns')
    excluded = [options.site, options.target, options.person, *(spec.name for spec in specs)]
    return Columns(
        features=_numbers(table, select_features(table, patterns, excluded, "--features")),
        site=site,
        covariates=values,
        covariate_names=() if kept is None else kept.names,
        first_covariate=kept.names[0] if kept else "",
        target=target,
        target_classes=classes,
        target_name=options.target,
        person=_people(table, options.person),
        fit_on=rows_labelled(table, options.fit_on, "--fit_on") if options.fit_on else None,
        notes=(*table.label_notes(options.site), *(() if kept is None else kept.notes)),
    )


def _check_roles(options: argparse.Namespace, kept: list[str]) -> None:
    """Raises `InputError` if a column has two roles: to keep the effect of the site would harmonise nothing."""
    roles = {options.site: "--site"}
    named = [("--keep", options.keep, name) for name in kept]
    for flag, text, name in [*named, *([("--target", options.target, options.target)] if options.target else [])]:
        if name in roles:
            found = "twice" if roles[name] == flag else f"named by {roles[name]} too"
            raise InputError(f"{flag}={text}: {name} {found}, expected each column once")
        roles[name] = flag


def score(columns: Columns, options: argparse.Namespace) -> dict:
    """Scores the raw features, ComBat and the method on people that both were not fitted on.

    Returns:
      The scorecard (docs/metrics.md).
    """
    strata = balanced_strata(code_labels(columns.site)[0], columns.target, columns.target_classes)
    split = assign_splits(columns.person, strata, validation_fraction=0.0, test_fraction=_HELD_OUT, seed=options.seed)
    train = np.flatnonzero(split == "train")
    if not len(train) or len(train) == len(split):
        cells = f"site and class of {options.target}" if columns.target_classes else "site"
        raise InputError(f"{options.table}: no {cells} has two people, so that none can be held out for the scores")
    known, filled = np.isfinite(columns.features.to_numpy()), columns.filled(train)
    mean, deviation = filled[train].mean(axis=0), filled[train].std(axis=0)
    versions = {RAW: filled}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fit on all rows says the same
        for method in dict.fromkeys((COMBAT, options.method)):
            try:
                correction = fit_correction(method, columns, train, options.reference, options.seed)
            except InputError as error:  # all rows together can be fitted
                raise InputError(f"scores, fitted on four fifths of the people: {error}; try another --seed") from None
            harmonised = correction.apply(columns.features, columns.site).to_numpy()
            # A missing value is the same in all versions: corrected, the mean would carry the site.
            versions[_NAMES[method]] = np.where(known, harmonised, filled)
    chosen = choose_rows(split, columns.person, options.seed)
    scale = np.where(deviation > 0, deviation, 1)
    versions = {name: ((values - mean) / scale)[chosen] for name, values in versions.items()}
    rows = ScoredRows(
        site=code_labels(columns.site)[0][chosen],
        covariates=columns.covariates[chosen],
        target=columns.target[chosen],
        target_classes=columns.target_classes,
        subject=columns.person[chosen],
        is_training=split[chosen] == "train",
        covariate_name=columns.first_covariate,
        target_name=columns.target_name,
    )
    return make_scorecard(
        rows,
        versions,
        handed_back=_NAMES[options.method],
        on_voxels=False,
        config=EvaluateConfig(scorecard_permutations=options.permutations),
        seed=options.seed,
    )


def _read_new(
    table: ParticipantsTable, columns: Columns, options: argparse.Namespace
) -> tuple[ParticipantsTable, pd.DataFrame, np.ndarray]:
    """Returns a further table with its features, in the order of the fitted ones, and its sites."""
    table.require(options.site, "--site")
    names = list(map(str, columns.features))
    for name in names:
        table.require(name, f"--features of {options.table}")
    features = select_features(table, names, [options.site], "--features")
    return table, _numbers(table, features), table.names_in(options.site)


def _numbers(table: ParticipantsTable, features: pd.DataFrame) -> pd.DataFrame:
    """Returns the features, or raises `InputError` for the first that holds text."""
    for name in features:
        if not pd.api.types.is_numeric_dtype(features[name]):
            raise InputError(f"{table.path}, column {name} (--features): holds text, expected numbers to harmonise")
    return features


def _people(table: ParticipantsTable, column: str) -> np.ndarray:
    """Returns the (N,) names of people, by default those of participant_id; rows without a name are other people's."""
    if column:
        table.require(column, "--person")
    elif ID_COLUMN not in table.frame:
        return np.arange(len(table.frame)).astype(str)
    column = column or ID_COLUMN
    return np.array([name or f"row {row}" for row, name in enumerate(table.frame[column])])


def _written(table: ParticipantsTable, features: pd.DataFrame, harmonised: pd.DataFrame) -> pd.DataFrame:
    """Returns the table as text with its features replaced. Missing and unchanged values stay as they were written."""
    frame = table.frame.copy()
    for name in features:
        values = zip(features[name], harmonised[name], strict=True)
        frame[name] = [
            text if np.isnan(before) or before == after else f"{after:.12g}"
            for text, (before, after) in zip(table.frame[name], values, strict=True)
        ]
    return frame


def _write_table(path: pathlib.Path, frame: pd.DataFrame) -> None:
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    missing = frame.replace("", "n/a")
    write_atomically(path, lambda part: missing.to_csv(part, sep=separator, index=False))
