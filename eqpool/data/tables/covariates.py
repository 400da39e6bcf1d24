"""Reads covariates and nuisances from a participants table, as numbers or as categories if the configuration asks."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from eqpool.config.names import split_entries, split_quoted
from eqpool.data.tables.coding import UNKNOWN, holds_numbers, without_caps
from eqpool.data.tables.covariate_coding import CovariateCoding
from eqpool.data.tables.levels import code_labels, sort_labels
from eqpool.data.tables.participants import ParticipantsTable, parse_numbers
from eqpool.errors import InputError

COVARIATES_KEY = "config.data.covariates"
_KINDS = ("", ":continuous", ":categorical")


class ColumnSpec(NamedTuple):
    """One entry of `data.covariates`: a column and whether its values are categories."""

    name: str
    categorical: bool


class Covariates(NamedTuple):
    """The covariates of N rows.

    Attributes:
      values: (N, C) float64, NaN where missing. A category with L levels becomes L - 1 columns of 0 and 1.
      names: the C names: `age`, or `sex=M` for a category.
      first_levels: the level of each category that has 0 in all of its columns, by the category's column.
      notes: lines for the log.
    """

    values: np.ndarray
    names: tuple[str, ...]
    first_levels: dict[str, str]
    notes: tuple[str, ...]


def parse_specs(text: str, key: str = COVARIATES_KEY) -> tuple[ColumnSpec, ...]:
    """Parses text such as `'age, sex:categorical'`. A column is continuous by default.

    A name that contains a comma or a colon is written in double quotes: `'"ratio a:b","scan, type":categorical'`.

    Raises:
      InputError: a quote is not closed, or the word after the colon is unknown.
    """
    specs = []
    for entry in split_entries(text):
        name, behind = split_quoted(entry)
        if not entry.startswith('"'):
            name, colon, kind = entry.rpartition(":") if ":" in entry else (entry, "", "")
            behind = colon + kind
        if behind not in _KINDS:
            raise InputError(
                f'{key}: "{entry}", expected {name}, {name}:continuous or {name}:categorical; a name that holds a '
                "colon stands in double quotes"
            )
        specs.append(ColumnSpec(name.strip(), behind == ":categorical"))
    return tuple(specs)


def read_covariates(table: ParticipantsTable, specs: tuple[ColumnSpec, ...], key: str = COVARIATES_KEY) -> Covariates:
    """Reads the covariates. An age such as `89+` is read as 89, and a note reports it.

    Args:
      table: table of N rows.
      specs: the covariates.
      key: where the user named them, for messages.

    Raises:
      InputError: a continuous column has a value that is not a number, or a category has a single level.
    """
    columns: dict[str, np.ndarray] = {}
    levels: dict[str, tuple[str, ...]] = {}
    notes = []
    for spec in specs:
        if spec.categorical:
            columns[spec.name] = table.names_in(spec.name)
            levels[spec.name] = sort_labels(columns[spec.name])
            _check_levels(table, spec.name, levels[spec.name])
            continue
        uncapped, capped = _without_caps(table, spec.name)
        columns[spec.name], levels[spec.name] = _numbers(uncapped, spec.name, key), ()
        if capped:
            notes.append(f"{capped} values of {spec.name} such as 89+ are read as the number before the plus")
    coding = CovariateCoding(levels)
    first_levels = {spec.name: levels[spec.name][0] for spec in specs if spec.categorical}
    return Covariates(coding.encode(columns, len(table.frame)), coding.names, first_levels, tuple(notes))


def read_covariates_of(
    table: ParticipantsTable, specs: tuple[ColumnSpec, ...], names: tuple[str, ...], first_levels: Mapping[str, str]
) -> np.ndarray:
    """Reads the covariates of a trained run from another table, as (N, C) float64 columns of the run's `names`.

    A category has the columns of the run's levels, whatever levels the table has.

    Args:
      table: table of N rows.
      specs: covariates of the run.
      names: names of the run's C columns.
      first_levels: first level of each category in the run. A run of an earlier version did not store it, and a table
        with one level that is not in `names` is then taken to have that one.

    Raises:
      InputError: a column is absent, or a row lacks a value or has a level that the run does not know.
    """
    columns: dict[str, np.ndarray] = {}
    levels: dict[str, tuple[str, ...]] = {}
    for spec in specs:
        table.require(spec.name, "a covariate of the run")
        if not spec.categorical:
            columns[spec.name], levels[spec.name] = (
                _numbers(_without_caps(table, spec.name)[0], spec.name, COVARIATES_KEY),
                (),
            )
            continue
        start = f"{spec.name}="
        known = (name.removeprefix(start) for name in names if name.startswith(start))
        columns[spec.name], levels[spec.name] = (
            table.names_in(spec.name),
            (first_levels.get(spec.name, UNKNOWN), *known),
        )
    coding = CovariateCoding(levels)
    for name in (spec.name for spec in specs if spec.categorical):
        _check_known(table, name, columns[name], coding)
    values = coding.encode(columns, len(table.frame))
    missing = np.argwhere(~np.isfinite(values))
    if missing.size:
        row, column = missing[0]
        named = names[column].partition("=")[0]
        raise InputError(f"{table.where(int(row), named)}: missing, expected a value in every row")
    return values


def read_nuisances(table: ParticipantsTable, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[tuple[str, ...], ...]]:
    """Returns (N, Q) int32 level indices, -1 where missing, and each column's level names.

    Raises:
      InputError: a column is absent or has fewer than two levels.
    """
    columns, levels = [], []
    for name in names:
        table.require(name, "config.data.nuisances")
        index, present = code_labels(table.names_in(name))
        _check_levels(table, name, present)
        columns.append(index)
        levels.append(present)
    return np.stack(columns, axis=1), tuple(levels)


def read_described(table: ParticipantsTable, names: tuple[str, ...]) -> np.ndarray:
    """Returns numeric columns as (N, D) float64, NaN where missing.

    Raises:
      InputError: a column is absent, or a value is not a number.
    """
    for name in names:
        table.require(name, "config.data.described")
    return np.stack([parse_numbers(table, name) for name in names], axis=1)


def _check_known(table: ParticipantsTable, name: str, labels: np.ndarray, coding: CovariateCoding) -> None:
    new = sorted(coding.new_levels(name, labels))
    first, *others = coding.levels[name]
    if new and first == UNKNOWN:  # the first of them may be the level whose name was not stored
        first, *new = new
    if new:
        row = int(np.flatnonzero(labels == new[0])[0])
        raise InputError(f"{table.where(row, name)}: {new[0]}, expected one of {', '.join([first, *others])}")


def _check_levels(table: ParticipantsTable, name: str, levels: tuple[str, ...]) -> None:
    if len(levels) < 2:
        raise InputError(f"{table.path}, column {name}: {len(levels)} categories, expected at least two")


def _without_caps(table: ParticipantsTable, name: str) -> tuple[ParticipantsTable, int]:
    values, capped = without_caps(table.frame[name])
    return dataclasses.replace(table, frame=table.frame.assign(**{name: values})), capped


def _numbers(table: ParticipantsTable, name: str, key: str) -> np.ndarray:
    try:
        return parse_numbers(table, name)
    except InputError as error:
        if holds_numbers(table.frame[name]):
            raise
        raise InputError(f"{error}; write {name}:categorical in {key} for categories") from None
