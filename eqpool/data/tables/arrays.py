"""Labels, numbers, covariates and nuisances as a library call gives them (lists, arrays, frames), to plain arrays.

Each entry is read as `eqpool.data.tables.coding` says, and so as out of a table.
"""

import collections
import dataclasses
import difflib
import warnings
from typing import Any

import numpy as np
import pandas as pd

from eqpool.data.tables.coding import (
    UNKNOWN,
    check_seen,
    code_labels,
    count_texts,
    holds_numbers,
    indicators,
    label_notes,
    read_labels,
    read_numbers,
    sort_labels,
    without_caps,
)
from eqpool.errors import InputError


class LabelWarning(UserWarning):
    """Words such as "NA" were read as missing, or several spellings as one label."""


def as_names(labels: Any, count: int, argument: str) -> np.ndarray:
    """(N,) str labels, "" where unknown.

    A `LabelWarning` names words that were read as missing, and spellings such as "1" and "1.0" that are one label.

    Raises:
      InputError: another number of labels, more than one dimension, or an entry that is no label.
    """
    values = as_column(labels, count, argument)
    names = read_labels(values, lambda row: f"{argument}, row {row}")
    for note in label_notes(count_texts(values), argument):
        warnings.warn(note, LabelWarning, stacklevel=3)
    return names


def as_column(values: Any, count: int | None, argument: str) -> np.ndarray:
    """(N,) objects of a list, an array or a Series, of any length where `count` is None; masked entries are None.

    Raises:
      InputError: another shape.
    """
    column = np.asarray(_unmasked(values), dtype=object)
    if column.ndim != 1 or count not in (None, len(column)):
        expected = "N" if count is None else count
        raise InputError(f"{argument} has shape {column.shape}, expected ({expected},), one entry a row of X")
    return column


@dataclasses.dataclass(frozen=True)
class CovariateCoding:
    """The covariates of a fit: numbers, and categories with their levels.

    Attributes:
      levels: of each column by its name, sorted; () for numbers. A level becomes a column of 0 and 1, but the first,
        which is the reference. The first is "" where a fit of an earlier version did not keep it.
    """

    levels: dict[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """The C names of the columns: `age`, or `sex=M` for a level."""
        expanded = ([f"{name}={level}" for level in levels[1:]] or [name] for name, levels in self.levels.items())
        return tuple(name for names in expanded for name in names)

    @classmethod
    def fit(cls, covariates: Any, count: int) -> "CovariateCoding":
        """From N rows of numbers or categories, as `as_covariates` takes them.

        Categorical columns of pandas are categories, others by `eqpool.data.tables.coding.holds_numbers`.

        Raises:
          InputError: another number of rows, a column named twice, or a category with a single level.
        """
        levels: dict[str, tuple[str, ...]] = {}
        for name, values in _columns(covariates, count, "covariates").items():
            if _is_of_numbers(values):
                levels[name] = ()
                continue
            levels[name] = sort_labels(_categories(name, values))
            if len(levels[name]) < 2:
                raise InputError(f"covariates, column {name}: {len(levels[name])} categories, expected at least two")
        return cls(levels)

    @classmethod
    def from_names(cls, names: tuple[str, ...]) -> "CovariateCoding":
        """From the names alone, which do not say what the reference levels are."""
        levels: dict[str, tuple[str, ...]] = {}
        for name in names:
            column, is_level, level = name.partition("=")
            levels[column] = (*(levels.get(column) or (UNKNOWN,)), level) if is_level else ()
        return cls(levels)

    def apply(self, covariates: Any, count: int) -> np.ndarray:
        """N rows as (N, C) float64.

        Raises:
          InputError: other columns or another number of rows than expected, an entry that is missing or no number, or
            a category that `fit` did not see.
        """
        columns = _columns(covariates, count, "covariates")
        if set(columns) != set(self.levels):
            expected = ", ".join(self.names)
            raise InputError(f"covariates are {', '.join(columns) or 'none'}, expected {expected} as in fit")
        blocks = [self._block(name, columns[name]) for name in self.levels]
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((count, 0))

    def _block(self, name: str, values: pd.Series) -> np.ndarray:
        levels = self.levels[name]
        if not levels:
            return _finite_numbers(values)[:, None]
        labels = _categories(name, values)
        new = [level for level in sort_labels(labels) if level not in levels]
        if levels[0] == UNKNOWN and len(new) == 1:  # then it may be the reference
            levels = (new[0], *levels[1:])
        seen = [level for level in levels if level != UNKNOWN]
        check_seen(labels, seen, f"covariates, column {name}", values.index)
        return indicators(code_labels(labels, levels)[0], len(levels))


def as_covariates(
    covariates: Any, count: int, names: tuple[str, ...] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N, C) float64 and the C names. Columns of categories become 0-1 columns, one a level but the first.

    Args:
      covariates: (N,) or (N, C) numbers or text, a pandas Series, or a frame.
      count: N.
      names: those of an earlier call, whose columns are then expected in any order.

    Raises:
      InputError: see `CovariateCoding`.
    """
    coding = CovariateCoding.fit(covariates, count) if names is None else CovariateCoding.from_names(names)
    return coding.apply(covariates, count), coding.names


def as_nuisances(nuisances: Any, count: int) -> tuple[np.ndarray | None, tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """(N, Q) int32 levels, -1 where unknown, the Q names, and the names of each one's levels, sorted.

    Args:
      nuisances: (N,) labels, a Series, or a frame of labels; None for none, which gives None and no names.
      count: N.

    Raises:
      InputError: another number of rows, a column named twice, or a label with fewer than two levels.
    """
    if nuisances is None:
        return None, (), ()
    codes, levels = [], []
    columns = _columns(nuisances, count, "nuisances")
    for name, values in columns.items():
        coded, names = code_labels(as_names(values, count, f"nuisances, column {name}"))
        if len(names) < 2:
            raise InputError(f"nuisances, column {name}: {len(names)} levels, expected two or more")
        codes.append(coded)
        levels.append(names)
    return np.stack(codes, axis=1), tuple(columns), tuple(levels)


def as_features(X: Any, names: tuple[str, ...] | None) -> Any:
    """X with each column that holds text, objects or pandas' own types read as float64; what else it is, as it is.

    Args:
      X: a frame, an array or nested lists.
      names: the columns of `fit`, which a frame is brought to; None before it, or where it had an array.

    Raises:
      InputError: a column of a frame that is missing or named twice, or an entry that is no number.
    """
    if isinstance(X, pd.DataFrame):
        check_unique(X, "X")
        X = X if names is None else reordered(X, names)
        if not X.shape[1]:
            return np.zeros(X.shape)
        read = {
            place: read_numbers(X.iloc[:, place], _in_cell(X.index, X.columns[place])) for place in range(X.shape[1])
        }
        return pd.DataFrame(read, index=X.index).set_axis(X.columns, axis=1)
    X = _unmasked(X)
    return _numbers_of_array(X) if isinstance(X, np.ndarray | list | tuple) else X


def reordered(frame: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """The columns `names` of a frame in that order; others are left out. A name matches as text: 0 is "0".

    Raises:
      InputError: naming the first column that is missing.
    """
    present = list(map(str, frame.columns))
    for name in names:
        if name not in present:
            nearest = difflib.get_close_matches(name, present, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise InputError(f"X: no column {name}, expected the {len(names)} columns of fit{hint}")
    return frame.iloc[:, [present.index(name) for name in names]]


def check_unique(frame: pd.DataFrame, argument: str) -> None:
    """Raises `InputError` naming a column that stands twice in a frame, as text: 0 and "0" are one name."""
    counts = collections.Counter(map(str, frame.columns))
    for name, count in counts.items():
        if count > 1:
            raise InputError(f"{argument}: {count} columns are named {name}, expected unique names")


def _columns(columns: Any, count: int, argument: str) -> dict[str, pd.Series]:
    """The columns of a frame, a Series or an array, by their names as text."""
    frame = _as_frame(columns, argument)
    if len(frame) != count:
        raise InputError(f"{argument} has {len(frame)} rows, expected {count}, one a row of X")
    check_unique(frame, argument)
    return {str(name): frame.iloc[:, place] for place, name in enumerate(frame.columns)}


def _as_frame(columns: Any, argument: str) -> pd.DataFrame:
    kind = argument.removesuffix("s")
    if isinstance(columns, pd.DataFrame):
        return columns
    if isinstance(columns, pd.Series):
        return columns.to_frame(columns.name if columns.name is not None else f"{kind}_0")
    if isinstance(columns, pd.Categorical):
        return pd.DataFrame({f"{kind}_0": columns})
    values = np.asarray(_unmasked(columns))
    if values.dtype.names:  # a record array
        return pd.DataFrame(values)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise InputError(f"{argument} has shape {values.shape}, expected (N,) or (N, columns)")
    return pd.DataFrame(values, columns=[f"{kind}_{index}" for index in range(values.shape[1])])


def _is_of_numbers(values: pd.Series) -> bool:
    if isinstance(values.dtype, pd.CategoricalDtype):
        return False
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_complex_dtype(values.dtype):
        return True
    entries, _ = without_caps(values)
    labels = read_labels(entries, lambda row: f"covariates, row {values.index[row]}, column {values.name}")
    return holds_numbers(labels) and bool((labels != UNKNOWN).any())


def _categories(name: str, values: pd.Series) -> np.ndarray:
    """(N,) labels of a covariate that is one of categories, none missing."""
    labels = as_names(values, len(values), f"covariates, column {name}")
    missing = labels == UNKNOWN
    if missing.any():
        row = values.index[int(np.argmax(missing))]
        raise InputError(f"covariates, row {row}, column {name}: missing, expected a category")
    return labels


def _finite_numbers(values: pd.Series) -> np.ndarray:
    """(N,) float64 of a continuous covariate; an age such as "89+" is 89."""
    where = _in_cell(values.index, values.name, "covariates")
    capped = not pd.api.types.is_numeric_dtype(values.dtype)
    numbers = read_numbers(without_caps(values)[0] if capped else values, where)
    missing = np.isnan(numbers)
    if missing.any():
        raise InputError(f"{where(int(np.argmax(missing)))}: nan, expected a finite number")
    return numbers


def _numbers_of_array(X: Any) -> Any:
    """An array of text or objects column by column as float64; what check_array refuses goes there as it is."""
    try:
        values = np.asarray(X)
    except ValueError:  # lists of several lengths
        return X
    if values.dtype.kind in "Mm":
        raise InputError(f"X: {values.dtype}, dates or times, expected numbers")
    if values.dtype.kind not in "OSU" or values.ndim != 2:
        return X
    if any(isinstance(value, dict | list | tuple | set | complex | np.complexfloating) for value in values.flat):
        return X
    rows = range(len(values))
    read = [read_numbers(column, _in_cell(rows, place)) for place, column in enumerate(values.T)]
    return np.stack(read, axis=1) if read else X


def _unmasked(values: Any) -> Any:
    """A masked array as one of objects, None where it is masked, since `numpy.asarray` drops masks; others as given."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    entries = np.ma.getdata(values).astype(object)
    entries[np.ma.getmaskarray(values)] = None
    return entries


def _in_cell(rows: Any, column: Any, what: str = "X") -> Any:
    return lambda row: f"{what}, row {rows[row]}, column {column}"
