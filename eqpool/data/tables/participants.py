"""Reads participants.tsv by BIDS rules: rows, sites, covariates and targets. Every error names file, row and column.

Labels and numbers are read by the rules of `eqpool.data.tables.coding`.
"""

import collections
import csv
import dataclasses
import difflib
import fnmatch
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eqpool.data.tables.coding import MISSING, UNKNOWN, holds_numbers, label_notes, read_labels, read_numbers
from eqpool.data.tables.levels import code_labels, is_of_classes, sort_labels
from eqpool.errors import InputError, listed

ID_COLUMN = "participant_id"
SESSION_COLUMNS = ("session_id", "session")
RESERVED = (ID_COLUMN, *SESSION_COLUMNS, "split", "path")
MOST_CATEGORIES = 50
LONGEST_NAME = 200  # bytes. A file name has at most 255.


@dataclasses.dataclass(frozen=True)
class ParticipantsTable:
    """A table of participants as text.

    Attributes:
      path: path of the file, for messages.
      frame: N rows of stripped strings, "" where missing.
      line: (N,) 1-based line numbers in the file.
      missing: count of each word that means "missing", such as NA, in each column of the file.
    """

    path: pathlib.Path
    frame: pd.DataFrame
    line: np.ndarray
    missing: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)

    def where(self, row: int, column: str = "") -> str:
        """Returns the start of a message, such as "participants.tsv, line 3 (sub-1, ses-2), column age"."""
        name = self.frame[ID_COLUMN].iloc[row] if ID_COLUMN in self.frame else ""
        visit = session_column(self)
        session = self.frame[visit].iloc[row].removeprefix("ses-")[:LONGEST_NAME] if visit else ""
        participant = f" ({name}{f', ses-{session}' if session else ''})" if name else ""
        return f"{self.path}, line {self.line[row]}{participant}" + (f", column {column}" if column else "")

    @property
    def labels(self) -> list[str]:
        """Returns `where` of every row."""
        return [self.where(row) for row in range(len(self.frame))]

    def require(self, column: str, key: str) -> pd.Series:
        """Returns a column by name, or raises `InputError`. `key` is the setting that asked for it."""
        if column in self.frame:
            return self.frame[column]
        nearest = difflib.get_close_matches(column, list(self.frame.columns), n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]}?" if nearest else f"; found {listed(list(self.frame.columns), most=8)}"
        raise InputError(f"{self.path}, line 1: no column {column} ({key}){hint}")

    def take(self, rows: np.ndarray) -> "ParticipantsTable":
        """Returns a table of the given rows, in that order."""
        frame = self.frame.iloc[rows].reset_index(drop=True)
        return dataclasses.replace(self, frame=frame, line=self.line[rows])

    def names_in(self, column: str) -> np.ndarray:
        """Returns a column of sites, classes or categories as (N,) str labels, "" where missing."""
        return read_labels(self.frame[column], lambda row: self.where(row, column))

    def label_notes(self, column: str) -> list[str]:
        """Returns the lines of `eqpool.data.tables.coding.label_notes` for a column of labels."""
        texts = collections.Counter(self.frame[column].tolist())
        return label_notes({**texts, **self.missing.get(column, {})}, column)


def read_participants(path: pathlib.Path) -> ParticipantsTable:
    """Reads a table of participants, see `read_table`.

    Raises:
      InputError: `read_table` raises it, or a participant_id is missing or not a plain name.
    """
    table = read_table(path)
    _check_names(table)
    return table


def read_table(path: pathlib.Path) -> ParticipantsTable:
    """Reads a .tsv (tab) or .csv (comma) file in UTF-8 with a header line, which need not have a participant_id.

    Raises:
      InputError: the file does not exist, is not UTF-8 or has no rows. A row has too few or too many fields. A column
        has no name or is named twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a participants.tsv (config.data.participants)")
    lines, rows = _rows(path)
    if not rows:
        raise InputError(f"{path}: the file is empty, expected a header line and one row a scan")
    header = [name.strip() for name in rows[0]]
    for name in header:
        if not name or header.count(name) > 1:
            raise InputError(f"{path}, line 1: column name {name!r} is empty or stands twice, expected unique names")
    if len(rows) == 1:
        raise InputError(f"{path}: no rows below the header, expected one row a scan")
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(header):
            raise InputError(f"{path}, line {line} ({row[0]}): {len(row)} fields, expected {len(header)} as in line 1")
    fields = [[field.strip() for field in row] for row in rows[1:]]
    words = {
        name: collections.Counter(c for c in column if c in MISSING)
        for name, column in zip(header, zip(*fields, strict=True), strict=True)
    }
    values = [["" if field in MISSING else field for field in row] for row in fields]
    frame = pd.DataFrame(values, columns=header, dtype=object)
    return ParticipantsTable(path, frame, np.array(lines[1:]), words)


def parse_numbers(table: ParticipantsTable, column: str) -> np.ndarray:
    """Returns a column as (N,) float64, NaN where missing.

    Raises:
      InputError: an entry is neither missing nor a number of at most 1e30 in size.
    """
    return read_numbers(table.frame[column], lambda row: table.where(row, column))


def parse_target(table: ParticipantsTable, column: str, target_type: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the target: (N,) int32 classes with their names, or (N,) float32 numbers and no names.

    With "auto", text and whole numbers with at most 10 levels are classes. Other numbers are numbers.

    Raises:
      InputError: the column is absent, every value is missing, or an entry of a target of numbers is not a number.
    """
    table.require(column, "config.data.target")
    labels = table.names_in(column)
    if not (labels != "").any():
        raise InputError(f"{table.path}, column {column}: every value is missing, expected a target")
    if is_of_classes(labels, target_type):
        return code_labels(labels)
    return parse_numbers(table, column).astype(np.float32), ()


def select_features(
    table: ParticipantsTable, patterns: Sequence[str], excluded: Sequence[str], key: str = "config.data.features"
) -> pd.DataFrame:
    """Returns the feature columns: float64 if numeric (NaN where missing), else text.

    Args:
      table: table of N rows.
      patterns: column names or glob patterns, matched in order. A column is taken once.
      excluded: columns such as site, covariates and target. A pattern skips them, and naming one is an error.
      key: the setting that asked for them, for messages.

    Raises:
      InputError: a name or pattern matches no column, a numeric column contains text, a text column has more than 50
        values, or an excluded column is named.
    """
    barred = {*excluded, *RESERVED}
    chosen: list[str] = []
    for pattern in patterns:
        if pattern in barred and pattern in table.frame:
            raise InputError(
                f"{key}: {pattern} is the site, a covariate, the target, a described or a reserved "
                "column, which must not be a feature"
            )
        is_plain = pattern in table.frame or not set(pattern) & set("*?[")
        matches = [pattern] if is_plain else fnmatch.filter(table.frame.columns, pattern)
        if is_plain:
            table.require(pattern, key)
        matches = [name for name in matches if name not in barred]
        if not matches:
            raise InputError(f'{key}: no column of {table.path} matches "{pattern}"')
        chosen += [name for name in matches if name not in chosen]
    return pd.DataFrame({name: _feature(table, name) for name in chosen})


def _feature(table: ParticipantsTable, column: str) -> np.ndarray:
    if holds_numbers(table.frame[column]):
        return parse_numbers(table, column)
    labels = table.names_in(column)
    levels = len(sort_labels(labels))
    if levels > MOST_CATEGORIES:
        raise InputError(
            f"{table.path}, column {column}: {levels} different texts, expected numbers or at most "
            f"{MOST_CATEGORIES} categories"
        )
    return labels.astype(object)


def session_column(table: ParticipantsTable) -> str | None:
    """Returns the name of the session column, which distinguishes a participant's scans, or None."""
    return next((name for name in SESSION_COLUMNS if name in table.frame), None)


def sessions(table: ParticipantsTable) -> list[str]:
    """Returns each row's session, or "" for all rows if there is no session column."""
    column = session_column(table)
    return table.frame[column].tolist() if column else [""] * len(table.frame)


def who(table: ParticipantsTable) -> dict[str, pd.Series]:
    """Returns the columns that name a row: participant_id, and the session column if there is one."""
    column = session_column(table)
    return {name: table.frame[name] for name in (ID_COLUMN, column) if name}


def sites_of(table: ParticipantsTable, column: str) -> np.ndarray:
    """Returns the (N,) site of each row, "" where it is missing or if there is no such column."""
    return table.names_in(column) if column in table.frame else np.full(len(table.frame), UNKNOWN)


def named_sites(table: ParticipantsTable, column: str) -> np.ndarray:
    """Returns the (N,) site of each row, "n/a" where it is missing or if there is no such column."""
    names = sites_of(table, column).astype(object)
    return np.where(names == UNKNOWN, "n/a", names)


def check_duplicates(table: ParticipantsTable) -> None:
    """Raises `InputError` if two rows have the same participant, session and path, as far as these columns exist."""
    columns = [ID_COLUMN, *(name for name in (session_column(table), "path") if name and name in table.frame)]
    seen: dict[tuple[str, ...], int] = {}
    for row, key in enumerate(table.frame[columns].itertuples(index=False, name=None)):
        if key in seen:
            raise InputError(
                f"{table.where(row)}: the same {' and '.join(columns)} as line {table.line[seen[key]]}, expected one "
                "row a scan (a session_id column distinguishes several scans of a participant)"
            )
        seen[key] = row


def _rows(path: pathlib.Path) -> tuple[list[int], list[list[str]]]:
    """Returns the line numbers of the non-empty rows, and these rows."""
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    lines: list[int] = []
    rows: list[list[str]] = []
    previous = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator, strict=True)
            for row in reader:
                # An unclosed quote, or one closed several lines below, would swallow the rows in between.
                if reader.line_num > previous + 1:
                    raise InputError(f"{path}, line {previous + 1}: a field of several lines, is a quote not closed?")
                if any(field.strip() for field in row):
                    lines.append(previous + 1)
                    rows.append(row)
                previous = reader.line_num
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise InputError(f"{path}, line {previous + 1}: cannot be read ({error}); is a quote not closed?") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return lines, rows


def _check_names(table: ParticipantsTable) -> None:
    names = table.require(ID_COLUMN, "required by BIDS")
    written: dict[str, str] = {}
    for row, name in enumerate(names):
        if not name:
            raise InputError(f"{table.where(row, ID_COLUMN)}: missing, expected a name such as sub-01")
        if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
            raise InputError(f"{table.where(row, ID_COLUMN)}: expected a name of at most {LONGEST_NAME} bytes")
        if name in {".", ".."} or "/" in name or "\\" in name:
            raise InputError(f'{table.where(row, ID_COLUMN)}: "{name}", expected a name without slashes')
        before = written.setdefault(name.removeprefix("sub-"), name)
        if before != name:
            raise InputError(f"{table.where(row, ID_COLUMN)}: {name} beside {before}, expected one name a participant")
