"""Feature columns to float32: categories to one-hot, numbers to z-scores, both learnt from training rows only."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

MISSING_CATEGORY = "n/a"


@dataclasses.dataclass(frozen=True)
class NumberColumn:
    """A numeric feature and its training mean and standard deviation (1 for a constant column)."""

    name: str
    mean: float
    deviation: float


@dataclasses.dataclass(frozen=True)
class CategoryColumn:
    """A categorical feature and the sorted values it takes in training rows."""

    name: str
    categories: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FeatureEncoding:
    """How a table's columns become the model's input; kept with a model so that new rows are encoded alike."""

    columns: tuple[NumberColumn | CategoryColumn, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        """The F names of the encoded features: `age`, or `education=Masters` for a category."""
        names: list[str] = []
        for column in self.columns:
            if isinstance(column, NumberColumn):
                names.append(column.name)
            else:
                names.extend(f"{column.name}={category}" for category in column.categories)
        return tuple(names)

    def apply(self, frame: pd.DataFrame) -> np.ndarray:
        """A frame of N rows with these columns to (N, F) float32.

        A missing number becomes the training mean (0). A category that training rows lack becomes all zeros.
        """
        blocks = [_encode(frame[column.name], column) for column in self.columns]
        return np.concatenate(blocks, axis=1).astype(np.float32) if blocks else np.zeros((len(frame), 0), np.float32)

    def unlike_training(self, frame: pd.DataFrame) -> Iterator[str]:
        """A line for each column of N rows in which something is missing, or is what no training row has."""
        for column in self.columns:
            values = frame[column.name]
            if isinstance(column, NumberColumn):
                missing = int((~np.isfinite(values.to_numpy(np.float64))).sum())
                if missing:
                    rows = f"{missing} of {len(frame)} rows"
                    yield f"{column.name}: missing in {rows}, where the training rows' mean is taken"
                continue
            of_row = np.array([_category(value) for value in values])
            for category in sorted(set(of_row.tolist()) - set(column.categories)):
                rows = f"{np.sum(of_row == category)} rows"
                yield f'{column.name}: "{category}" in {rows}, which no training row has; they are of no category'

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the inverse."""
        return {"columns": [dataclasses.asdict(column) for column in self.columns]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FeatureEncoding":
        """From what `to_dict` gave, also after a trip through JSON."""
        return cls(
            tuple(
                NumberColumn(**column)
                if "mean" in column
                else CategoryColumn(column["name"], tuple(column["categories"]))
                for column in values["columns"]
            )
        )


def fit_encoding(frame: pd.DataFrame, training_rows: np.ndarray) -> FeatureEncoding:
    """Learns scaling and vocabularies.

    Args:
      frame: N rows; float columns are numbers (NaN where missing), all others are categories.
      training_rows: indices of the rows to learn from; no other row is looked at.
    """
    training = frame.iloc[training_rows]
    return FeatureEncoding(tuple(_fit_column(str(name), training[name]) for name in frame.columns))


def _fit_column(name: str, values: pd.Series) -> NumberColumn | CategoryColumn:
    if not pd.api.types.is_float_dtype(values.dtype):
        return CategoryColumn(name, tuple(sorted({_category(value) for value in values})))
    known = values.to_numpy(np.float64)
    known = known[np.isfinite(known)]
    mean = float(known.mean()) if known.size else 0.0
    deviation = float(known.std()) if known.size else 0.0
    # Rounding alone gives a constant column of large numbers a tiny deviation: dividing by it would make noise.
    constant = deviation <= 1e-12 * max(1.0, abs(mean))
    return NumberColumn(name, mean, 1.0 if constant else deviation)


def _encode(values: pd.Series, column: NumberColumn | CategoryColumn) -> np.ndarray:
    if isinstance(column, NumberColumn):
        scaled = (values.to_numpy(np.float64) - column.mean) / column.deviation
        return np.nan_to_num(scaled, nan=0.0)[:, None]
    position = {category: index for index, category in enumerate(column.categories)}
    index = np.array([position.get(_category(value), -1) for value in values], dtype=np.int64)
    return (index[:, None] == np.arange(len(column.categories))[None, :]).astype(np.float64)


def _category(value: Any) -> str:
    return value if isinstance(value, str) and value else MISSING_CATEGORY
