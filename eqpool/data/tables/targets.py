"""Encodes the target of a library call: classes, a number, or no target."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from eqpool.data.tables.arrays import as_column, as_names
from eqpool.data.tables.coding import UNKNOWN, read_labels, read_numbers, to_label, to_number
from eqpool.data.tables.levels import code_labels, indicators, is_of_classes, sort_labels
from eqpool.errors import InputError


@dataclasses.dataclass(frozen=True)
class TargetCoding:
    """The coding of a target: classes, a number with its mean and deviation over training rows, or no target.

    Attributes:
      kind: "classes", "number" or "none".
      classes: sorted classes. Numbers and bools keep their dtype, and others are labels. Empty unless `kind` is
        "classes".
      mean, deviation: mean and standard deviation of a number.
    """

    kind: str
    classes: np.ndarray
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def num_classes(self) -> int:
        """Returns the number of classes, 0 unless `kind` is "classes"."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns the classes as labels."""
        return tuple(to_label(name) for name in self.classes)

    @classmethod
    def fit(cls, y: Any, target_type: str) -> "TargetCoding":
        """Learns the coding from (N,) values, with unknown values missing.

        With "auto", text and at most 10 distinct whole numbers are classes.

        Raises:
          InputError: no value is known, or a value of a target of numbers is not a number.
        """
        if y is None:
            return cls("none", np.zeros(0))
        values = as_column(y, None, "y")
        labels = as_names(values, len(values), "y")
        known = values[labels != UNKNOWN]
        if not known.size:
            raise InputError("y: every value is missing, expected some that are known, or y=None")
        categorical = isinstance(getattr(y, "dtype", None), pd.CategoricalDtype)
        if is_of_classes(labels, "classes" if categorical and target_type == "auto" else target_type):
            return cls("classes", _classes(known.tolist(), labels))
        if target_type == "number":
            bad = [value for value in known if to_number(value) is None]
            if bad:
                raise InputError(f'y: "{bad[0]}", expected numbers, as target_type is "number"')
        numbers = read_numbers(values, lambda row: f"y, row {row}")
        numbers = numbers[np.isfinite(numbers)]
        return cls("number", np.zeros(0), float(numbers.mean()), float(numbers.std()) or 1.0)

    def encode(self, y: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Encodes the target.

        Returns:
          (N,) int32 classes or float32 standardised numbers, 0 where unknown, and (N,) float32, 1 where the target is
          known and 0 elsewhere.

        Raises:
          InputError: the number of rows is not `count`, or `fit` did not see a class.
        """
        if y is None or self.kind == "none":
            return np.zeros(count, np.float32), np.zeros(count, np.float32)
        values = as_column(y, count, "y")
        if self.kind == "number":
            numbers = read_numbers(values, lambda row: f"y, row {row}")
            known = np.isfinite(numbers)
            scaled = np.where(known, (numbers - self.mean) / self.deviation, 0.0)
            return scaled.astype(np.float32), known.astype(np.float32)
        labels = read_labels(values, lambda row: f"y, row {row}")
        codes, _ = code_labels(labels, self.class_names)
        new = np.flatnonzero((codes < 0) & (labels != UNKNOWN))
        if new.size:
            expected = ", ".join(self.class_names)
            raise InputError(f"y: class {values[new[0]]!r}, expected one of {expected} (row {new[0]})")
        return np.maximum(codes, 0), (codes >= 0).astype(np.float32)

    def columns(self, target: np.ndarray, known: np.ndarray) -> np.ndarray | None:
        """Returns the `target_columns` (N, K) of the output of `encode`, or None without a target."""
        return None if self.kind == "none" else target_columns(target, known > 0, self.num_classes)

    def decode(self, prediction: np.ndarray) -> np.ndarray:
        """Converts the (N, outputs) predictions of the network to (N,) labels or numbers in the target's units."""
        if self.kind == "classes":
            return self.classes[prediction.argmax(axis=1)]
        return prediction[:, 0].astype(np.float64) * self.deviation + self.mean

    def score(self, y: Any, predicted: np.ndarray) -> float:
        """Computes the accuracy of classes or the R^2 of numbers, over the rows with a known target."""
        if self.kind == "classes":
            truth, known = self.encode(y, len(predicted))
            return float(np.mean((self.classes[truth] == predicted)[known > 0]))
        numbers = read_numbers(as_column(y, len(predicted), "y"), lambda row: f"y, row {row}")
        numbers, predicted = numbers[np.isfinite(numbers)], predicted[np.isfinite(numbers)]
        return float(1 - np.sum((numbers - predicted) ** 2) / np.sum((numbers - numbers.mean()) ** 2))


def target_columns(target: np.ndarray, known: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns an (N,) target as (N, K) float64 regression columns, NaN where unknown.

    The columns are indicators of all classes except the first, or the number itself.
    """
    if num_classes:
        return indicators(np.where(known, target, -1), num_classes)
    return np.where(known, target.astype(np.float64), np.nan)[:, None]


def _classes(known: list[Any], labels: np.ndarray) -> np.ndarray:
    """Returns the sorted classes, numbers and bools in their own dtype, and everything else as labels."""
    names = sort_labels(labels)
    if not any(isinstance(value, str | bytes) for value in known):
        own = np.unique(np.array(known))
        if own.dtype.kind in "biuf" and len(own) == len(names):
            return own
    return np.array(names)
