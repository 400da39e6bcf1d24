"""Encodes feature columns as float32: one-hot categories and z-scored numbers, both learnt from training rows only."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from eqpool.data.tables.coding import to_label
from eqpool.data.tables.levels import check_seen, code_labels, same_labels, sort_labels
from eqpool.data.tables.scaling import ColumnScaling

MISSING_CATEGORY = "n/a"


@dataclasses.dataclass(frozen=True)
class NumberColumn:
    """A numeric feature, with the statistics that `ColumnScaling` computed from training rows.

    Attributes:
      name: name of the column.
      mean, deviation: mean and standard deviation over training rows. The deviation of a constant column is 1.
      constant: whether training rows differ by no more than rounding. False if a model of an earlier version, which
        did not store it, is loaded.
      nonnegative: whether no training row is negative. None if a model of an earlier version is loaded.
    """

    name: str
    mean: float
    deviation: float
    constant: bool = False
    nonnegative: bool | None = None


@dataclasses.dataclass(frozen=True)
class CategoryColumn:
    """A categorical feature and its sorted values in training rows."""

    name: str
    categories: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FeatureEncoding:
    """The encoding of a table's columns as model input, stored with the model and applied to new rows."""

    columns: tuple[NumberColumn | CategoryColumn, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Returns the F names of the encoded features: `age`, or `education=Masters` for a category."""
        names: list[str] = []
        for column in self.columns:
            if isinstance(column, NumberColumn):
                names.append(column.name)
            else:
                names.extend(f"{column.name}={category}" for category in column.categories)
        return tuple(names)

    def apply(self, frame: pd.DataFrame) -> np.ndarray:
        """Encodes a frame of N rows with these columns as (N, F) float32.

        A missing number becomes the training mean (0). A category that is not in the training rows becomes all zeros.
        """
        names = [column.name for column in self.numbers]
        scores = dict(zip(names, self.scaling.apply(frame[names].to_numpy(np.float64)).T, strict=True))
        blocks = [
            scores[column.name][:, None] if isinstance(column, NumberColumn) else _one_hot(frame[column.name], column)
            for column in self.columns
        ]
        return np.concatenate(blocks, axis=1).astype(np.float32) if blocks else np.zeros((len(frame), 0), np.float32)

    def unlike_training(self, frame: pd.DataFrame) -> Iterator[str]:
        """Yields a line for each number column with missing values among N rows.

        A category column is reported only if it was complete in the training rows.
        """
        for column in self.columns:
            values = frame[column.name]
            if isinstance(column, NumberColumn):
                missing = int((~np.isfinite(values.to_numpy(np.float64))).sum())
                if missing:
                    rows = f"{missing} of {len(frame)} rows"
                    yield f"{column.name}: missing in {rows}, where the training rows' mean is taken"
            elif MISSING_CATEGORY not in column.categories:
                missing = int((_labels(values) == MISSING_CATEGORY).sum())
                if missing:
                    yield f"{column.name}: missing in {missing} of {len(frame)} rows, which are of no category"

    def check_categories(self, frame: pd.DataFrame, rows: Sequence[str]) -> None:
        """Checks that the N new rows, named by `rows`, have no category that is absent from the training rows.

        Raises:
          InputError: a category is new. The message names the column, the category, its rows and the known categories.
        """
        for column in self.columns:
            if isinstance(column, CategoryColumn):
                labels = np.array([to_label(value) for value in frame[column.name]], np.str_)
                check_seen(labels, column.categories, f"column {column.name}", rows)

    @property
    def scaling(self) -> ColumnScaling:
        """Returns the scaling of the number columns, in order."""
        columns = self.numbers
        mean, deviation = (np.array([getattr(c, name) for c in columns], np.float64) for name in ("mean", "deviation"))
        signs = [column.nonnegative for column in columns]
        nonnegative = None if None in signs else np.array(signs, bool)
        return ColumnScaling(mean, deviation, np.array([column.constant for column in columns], bool), nonnegative)

    @property
    def numbers(self) -> tuple[NumberColumn, ...]:
        """Returns the number columns."""
        return tuple(column for column in self.columns if isinstance(column, NumberColumn))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON. `from_dict` is the inverse."""
        return {"columns": [dataclasses.asdict(column) for column in self.columns]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FeatureEncoding":
        """Builds the encoding from the values that `to_dict` returned, also after a round trip through JSON."""
        return cls(
            tuple(
                NumberColumn(**column)
                if "mean" in column
                else CategoryColumn(column["name"], same_labels(column["categories"], f"feature {column['name']}"))
                for column in values["columns"]
            )
        )


def fit_encoding(frame: pd.DataFrame, training_rows: np.ndarray) -> FeatureEncoding:
    """Learns the scaling of numbers and the vocabularies of categories.

    Args:
      frame: N rows. Float columns are numbers (NaN where missing), and all others are categories.
      training_rows: indices of the rows to learn from. Other rows are not used.
    """
    training = frame.iloc[training_rows]
    return FeatureEncoding(tuple(_fit_column(str(name), training[name]) for name in frame.columns))


def _fit_column(name: str, values: pd.Series) -> NumberColumn | CategoryColumn:
    if not pd.api.types.is_float_dtype(values.dtype):
        return CategoryColumn(name, sort_labels(_labels(values)))
    scaling = ColumnScaling.fit(values.to_numpy(np.float64)[:, None])
    (mean,), (deviation,), (constant,), (nonnegative,) = (part.tolist() for part in vars(scaling).values())
    return NumberColumn(name, mean, deviation, constant, nonnegative)


def _one_hot(values: pd.Series, column: CategoryColumn) -> np.ndarray:
    codes, _ = code_labels(_labels(values), column.categories)
    return (codes[:, None] == np.arange(len(column.categories))[None, :]).astype(np.float64)


def _labels(values: pd.Series) -> np.ndarray:
    return np.array([to_label(value) or MISSING_CATEGORY for value in values], np.str_)
