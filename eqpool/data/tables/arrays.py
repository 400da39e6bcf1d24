"""Converts the labels, numbers, covariates and nuisances of a library call (lists, arrays, frames) to plain arrays.

Each entry is read by the rules of `eqpool.data.tables.coding`, which also apply to the text of tables.
"""

import collections
import difflib
import warnings
from typing import Any

import numpy as np
import pandas as pd

from eqpool.data.tables.coding import (
    UNKNOWN,
    count_texts,
    holds_numbers,
    label_notes,
    read_labels,
    read_numbers,
    without_caps,
)
from eqpool.data.tables.covariate_coding import CovariateCoding
from eqpool.data.tables.levels import check_seen, code_labels, sort_labels
from eqpool.errors import InputError


class LabelWarning(UserWarning):
    """Warning that words such as "NA" were read as missing, or that several spellings were read as one label."""


def as_names(labels: Any, count: int, argument: str) -> np.ndarray:
    """Returns (N,) str labels, "" where unknown.

    A `LabelWarning` names the words that were read as missing, and the spellings, such as "1" and "1.0", that are one
    label.

    Raises:
      InputError: the number of labels is not `count`, there is more than one dimension, or an entry is not a label.
    """
    values = as_column(labels, count, argument)
    names = read_labels(values, lambda row: f"{argument}, row {row}")
    for note in label_notes(count_texts(values), argument):
        warnings.warn(note, LabelWarning, stacklevel=3)
    return names


def as_column(values: Any, count: int | None, argument: str) -> np.ndarray:
    """Returns a list, an array or a Series as (N,) objects, with None for masked entries.

    If `count` is None, any length is accepted.

    Raises:
      InputError: the shape is not (count,).
    """
    column = np.asarray(_unmasked(values), dtype=object)
    if column.ndim != 1 or count not in (None, len(column)):
        expected = "N" if count is None else count
        raise InputError(f"{argument} has shape {column.shape}, expected ({expected},), one entry a row of X")
    return column


def fit_covariates(covariates: Any, count: int) -> CovariateCoding:
    """Learns the coding of covariates: (N,) or (N, C) numbers or text, a pandas Series, or a frame.

    A column of categories becomes 0-1 columns, one for each level except the first. Categorical columns of pandas are
    always categories. For other columns, `eqpool.data.tables.coding.holds_numbers` decides.

    Raises:
      InputError: the number of rows is not `count`, a column is named twice, or a category has a single level.
    """
    levels: dict[str, tuple[str, ...]] = {}
    for name, values in _columns(covariates, count, "covariates").items():
        if _is_of_numbers(values):
            levels[name] = ()
            continue
        levels[name] = sort_labels(_categories(name, values))
        if len(levels[name]) < 2:
            raise InputError(f"covariates, column {name}: {len(levels[name])} categories, expected at least two")
    return CovariateCoding(levels)


def encode_covariates(coding: CovariateCoding, covariates: Any, count: int) -> np.ndarray:
    """Returns N = `count` rows of covariates as (N, C) float64.

    Raises:
      InputError: the columns or the number of rows differ from those expected, an entry is missing or not a number, or
        the fit of the coding did not see a category.
    """
    columns = _columns(covariates, count, "covariates")
    if set(columns) != set(coding.levels):
        expected = ", ".join(coding.names)
        raise InputError(f"covariates are {', '.join(columns) or 'none'}, expected {expected} as in fit")
    read = {
        name: _known_categories(coding, name, columns[name]) if levels else _finite_numbers(columns[name])
        for name, levels in coding.levels.items()
    }
    return coding.encode(read, count)


def as_nuisances(nuisances: Any, count: int) -> tuple[np.ndarray | None, tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Returns nuisances as (N, Q) int32 levels, -1 where unknown, the Q names, and the sorted level names of each.

    Args:
      nuisances: (N,) labels, a Series, or a frame of labels. None returns None and no names.
      count: N.

    Raises:
      InputError: the number of rows is not `count`, a column is named twice, or a nuisance has fewer than two levels.
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
    """Returns X with columns of text, objects or pandas' own types read as float64.

    Other kinds of input are returned unchanged.

    Args:
      X: a frame, an array or nested lists.
      names: columns of `fit`, to which a frame is reordered. None before `fit`, or if `fit` was given an array.

    Raises:
      InputError: a column of a frame is missing or named twice, or an entry is not a number.
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
    """Returns the columns `names` of a frame, in that order, without the others.

    Names are compared as text: 0 matches "0".

    Raises:
      InputError: a column is missing. The message names the first such column.
    """
    present = list(map(str, frame.columns))
    for name in names:
        if name not in present:
            nearest = difflib.get_close_matches(name, present, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise InputError(f"X: no column {name}, expected the {len(names)} columns of fit{hint}")
    return frame.iloc[:, [present.index(name) for name in names]]


def check_unique(frame: pd.DataFrame, argument: str) -> None:
    """Raises `InputError` if a column name occurs twice in a frame. Names are compared as text: 0 equals "0"."""
    counts = collections.Counter(map(str, frame.columns))
    for name, count in counts.items():
        if count > 1:
            raise InputError(f"{argument}: {count} columns are named {name}, expected unique names")


def _columns(columns: Any, count: int, argument: str) -> dict[str, pd.Series]:
    """Returns the columns of a frame, a Series or an array, keyed by their names as text."""
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
    """Returns the (N,) labels of a categorical covariate and raises `InputError` if one is missing."""
    labels = as_names(values, len(values), f"covariates, column {name}")
    missing = labels == UNKNOWN
    if missing.any():
        row = values.index[int(np.argmax(missing))]
        raise InputError(f"covariates, row {row}, column {name}: missing, expected a category")
    return labels


def _known_categories(coding: CovariateCoding, name: str, values: pd.Series) -> np.ndarray:
    labels = _categories(name, values)
    if coding.new_levels(name, labels):
        known = [level for level in coding.levels[name] if level != UNKNOWN]
        check_seen(labels, known, f"covariates, column {name}", values.index)
    return labels


def _finite_numbers(values: pd.Series) -> np.ndarray:
    """Returns a continuous covariate as (N,) float64. An age such as "89+" is read as 89."""
    where = _in_cell(values.index, values.name, "covariates")
    capped = not pd.api.types.is_numeric_dtype(values.dtype)
    numbers = read_numbers(without_caps(values)[0] if capped else values, where)
    missing = np.isnan(numbers)
    if missing.any():
        raise InputError(f"{where(int(np.argmax(missing)))}: nan, expected a finite number")
    return numbers


def _numbers_of_array(X: Any) -> Any:
    """Reads an array of text or objects as float64, column by column.

    Input that scikit-learn's `check_array` refuses is returned unchanged, so that `check_array` reports it.
    """
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
    """Returns a masked array as an array of objects with None where masked, and other values unchanged.

    `numpy.asarray` alone would drop the mask.
    """
    if not isinstance(values, np.ma.MaskedArray):
        return values
    entries = np.ma.getdata(values).astype(object)
    entries[np.ma.getmaskarray(values)] = None
    return entries


def _in_cell(rows: Any, column: Any, what: str = "X") -> Any:
    return lambda row: f"{what}, row {rows[row]}, column {column}"
