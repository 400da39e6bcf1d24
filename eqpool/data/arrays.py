"""Labels, covariates and targets as a library call gives them (lists, arrays, frames), to plain arrays."""

import dataclasses
import difflib
from typing import Any

import numpy as np
import pandas as pd

from eqpool.data.participants import MISSING, MOST_CLASS_LEVELS
from eqpool.errors import InputError

UNKNOWN = ""


def as_names(labels: Any, count: int, argument: str) -> np.ndarray:
    """(N,) str of labels that may be anything printable; "" where unknown (None, NaN, "", "n/a").

    Raises:
      InputError: another number of labels, or more than one dimension.
    """
    values = np.asarray(labels, dtype=object)
    if values.shape != (count,):
        raise InputError(f"{argument} has shape {values.shape}, expected ({count},), one entry a row of X")
    return np.array([UNKNOWN if _is_missing(value) else str(value) for value in values], dtype=np.str_)


def as_covariates(
    covariates: Any, count: int, names: tuple[str, ...] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N, C) float64 and the C names. Columns of text become 0-1 columns, one a category but the first.

    Args:
      covariates: (N,) or (N, C) numbers, a pandas Series, or a frame, whose columns may be text.
      count: N.
      names: those of an earlier call; a frame is then brought to the same columns.

    Raises:
      InputError: another number of rows, a value that is missing or no number, or other columns than before.
    """
    frame = _as_frame(covariates)
    if len(frame) != count:
        raise InputError(f"covariates has {len(frame)} rows, expected {count}, one a row of X")
    blocks = {}
    for column in frame.columns:
        values = frame[column]
        if pd.api.types.is_numeric_dtype(values.dtype):
            blocks[str(column)] = values.to_numpy(np.float64)
            continue
        text = as_names(values, count, f"covariates, column {column}")
        if (text == UNKNOWN).any():
            raise InputError(_row_message(frame, int(np.argmax(text == UNKNOWN)), column, "missing", "a category"))
        levels = _known_levels(str(column), names) or sorted(set(text.tolist()))[1:]
        blocks |= {f"{column}={level}": (text == level).astype(np.float64) for level in levels}
    if names is not None:
        if set(blocks) != set(names):
            raise InputError(f"covariates are {', '.join(blocks)}, expected {', '.join(names)} as in fit")
        blocks = {name: blocks[name] for name in names}
    numbers = np.stack(list(blocks.values()), axis=1) if blocks else np.zeros((count, 0))
    bad = np.argwhere(~np.isfinite(numbers))
    if bad.size:
        row, index = bad[0]
        raise InputError(_row_message(frame, row, list(blocks)[index], str(numbers[row, index]), "a finite number"))
    return numbers, tuple(blocks)


def as_nuisances(nuisances: Any, count: int) -> tuple[np.ndarray, tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """(N, Q) int32 levels, -1 where unknown, the Q names, and the names of each one's levels, sorted.

    Args:
      nuisances: (N,) labels, a Series, or a frame of labels.
      count: N.

    Raises:
      InputError: another number of rows, or a label with fewer than two levels.
    """
    frame = _as_frame(nuisances, "nuisances")
    if len(frame) != count:
        raise InputError(f"nuisances has {len(frame)} rows, expected {count}, one a row of X")
    codes, levels = np.full((count, frame.shape[1]), -1, np.int32), []
    for index, column in enumerate(frame.columns):
        labels = as_names(frame[column], count, f"nuisances, column {column}")
        known = labels != UNKNOWN
        names = np.unique(labels[known])
        if len(names) < 2:
            raise InputError(f"nuisances, column {column}: {len(names)} levels, expected two or more")
        codes[known, index] = np.searchsorted(names, labels[known])
        levels.append(tuple(names.tolist()))
    return codes, tuple(map(str, frame.columns)), tuple(levels)


@dataclasses.dataclass(frozen=True)
class TargetCoding:
    """What a target is: classes, or a number with its mean and deviation over training rows, or nothing (no target).

    Attributes:
      kind: "classes", "number" or "none".
      classes: sorted labels in their own dtype; empty unless kind is "classes".
      mean, deviation: of a number.
    """

    kind: str
    classes: np.ndarray
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def num_classes(self) -> int:
        """0 unless the target is classes."""
        return len(self.classes)

    @classmethod
    def fit(cls, y: Any, target_type: str) -> "TargetCoding":
        """From (N,) values, unknown ones None or NaN; "auto" takes text and few whole numbers to be classes.

        Raises:
          InputError: a number is asked for and a value is none, or no value is known.
        """
        if y is None:
            return cls("none", np.zeros(0))
        values = np.asarray(y)
        known = values[~np.array([_is_missing(value) for value in values.astype(object)], bool)]
        if not known.size:
            raise InputError("y: every value is missing, expected some that are known, or y=None")
        numeric = pd.api.types.is_numeric_dtype(pd.Series(known.tolist()).dtype)
        if target_type == "auto":
            whole = numeric and np.all(np.asarray(known, np.float64) == np.round(np.asarray(known, np.float64)))
            few = whole and len(np.unique(known.astype(np.float64))) <= MOST_CLASS_LEVELS
            target_type = "classes" if few or not numeric else "number"
        if target_type == "classes":
            return cls("classes", np.unique(np.array(known.tolist())))
        if not numeric:
            raise InputError(f'y: "{known[0]}", expected numbers, as target_type is "number"')
        numbers = known.astype(np.float64)
        return cls("number", np.zeros(0), float(numbers.mean()), float(numbers.std()) or 1.0)

    def encode(self, y: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(N,) int32 classes or float32 standardised numbers, 0 where unknown, and (N,) float32 0-1: known or not.

        Raises:
          InputError: another number of rows, or a class that `fit` did not see.
        """
        if y is None or self.kind == "none":
            return np.zeros(count, np.float32), np.zeros(count, np.float32)
        values = np.asarray(y).astype(object)
        if values.shape != (count,):
            raise InputError(f"y has shape {values.shape}, expected ({count},), one entry a row of X")
        known = ~np.array([_is_missing(value) for value in values], bool)
        if self.kind == "number":
            scaled = np.zeros(count, np.float32)
            scaled[known] = (values[known].astype(np.float64) - self.mean) / self.deviation
            return scaled, known.astype(np.float32)
        index = {label: position for position, label in enumerate(self.classes.tolist())}
        new = [value for value in values[known] if value not in index]
        if new:
            raise InputError(f"y: class {new[0]!r}, expected one of {', '.join(map(str, self.classes))}")
        encoded = np.array([index[value] if is_known else 0 for value, is_known in zip(values, known, strict=True)])
        return encoded.astype(np.int32), known.astype(np.float32)

    def columns(self, target: np.ndarray, known: np.ndarray) -> np.ndarray | None:
        """What `encode` gave as (N, K) float64 columns, NaN where unknown: classes but the first, or the number."""
        return None if self.kind == "none" else target_columns(target, known > 0, self.num_classes)

    def decode(self, prediction: np.ndarray) -> np.ndarray:
        """(N, outputs) of the network to (N,) labels or numbers in the target's units."""
        if self.kind == "classes":
            return self.classes[prediction.argmax(axis=1)]
        return prediction[:, 0].astype(np.float64) * self.deviation + self.mean


def target_columns(target: np.ndarray, known: np.ndarray, num_classes: int) -> np.ndarray:
    """A target (N,) as (N, K) float64 columns of a regression: classes but the first, or the number; NaN if unknown."""
    values = target[:, None] == np.arange(1, num_classes)[None] if num_classes else target[:, None]
    return np.where(known[:, None], values.astype(np.float64), np.nan)


def reordered(frame: pd.DataFrame, names: np.ndarray) -> pd.DataFrame:
    """The columns `names` of a frame in that order; others are left out.

    Raises:
      InputError: naming the first column that is missing.
    """
    for name in names:
        if name not in frame.columns:
            nearest = difflib.get_close_matches(str(name), list(map(str, frame.columns)), n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise InputError(f"X: no column {name}, expected the {len(names)} columns of fit{hint}")
    return frame[list(names)]


def check_numeric(frame: pd.DataFrame) -> None:
    """Raises `InputError` naming row and column where a frame holds text that is no number."""
    for column in frame.columns:
        if pd.api.types.is_numeric_dtype(frame[column].dtype):
            continue
        for row, value in enumerate(frame[column]):
            if not _is_missing(value) and not _is_number(value):
                raise InputError(_row_message(frame, row, column, f'"{value}"', "a number", "X"))


def _as_frame(columns: Any, argument: str = "covariates") -> pd.DataFrame:
    kind = argument.removesuffix("s")
    if isinstance(columns, pd.DataFrame):
        return columns
    if isinstance(columns, pd.Series):
        return columns.to_frame(columns.name if columns.name is not None else f"{kind}_0")
    values = np.asarray(columns)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise InputError(f"{argument} has shape {values.shape}, expected (N,) or (N, columns)")
    return pd.DataFrame(values, columns=[f"{kind}_{index}" for index in range(values.shape[1])])


def _known_levels(column: str, names: tuple[str, ...] | None) -> list[str]:
    start = f"{column}="
    return [name.removeprefix(start) for name in names or () if name.startswith(start)]


def _row_message(
    frame: pd.DataFrame, row: int, column: Any, found: str, expected: str, what: str = "covariates"
) -> str:
    return f"{what}, row {frame.index[row]}, column {column}: {found}, expected {expected}"


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip() in MISSING
    return value is None or value is pd.NA or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
