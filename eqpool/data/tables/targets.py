"""What a target is, as a library call gives it: classes, a number, or nothing."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from eqpool.data.tables.arrays import as_column, as_names
from eqpool.data.tables.coding import (
    UNKNOWN,
    code_labels,
    is_of_classes,
    read_labels,
    read_numbers,
    sort_labels,
    to_label,
    to_number,
)
from eqpool.errors import InputError


@dataclasses.dataclass(frozen=True)
class TargetCoding:
    """What a target is: classes, or a number with its mean and deviation over training rows, or nothing (no target).

    Attributes:
      kind: "classes", "number" or "none".
      classes: sorted, numbers and bools in their own dtype, others as labels; empty unless kind is "classes".
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

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as labels."""
        return tuple(to_label(name) for name in self.classes)

    @classmethod
    def fit(cls, y: Any, target_type: str) -> "TargetCoding":
        """From (N,) values, unknown ones missing; "auto" takes text and few whole numbers to be classes.

        Raises:
          InputError: a number is asked for and a value is none, or no value is known.
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
        """(N,) int32 classes or float32 standardised numbers, 0 where unknown, and (N,) float32 0-1: known or not.

        Raises:
          InputError: another number of rows, or a class that `fit` did not see.
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
        """What `encode` gave as (N, K) float64 columns, NaN where unknown: classes but the first, or the number."""
        return None if self.kind == "none" else target_columns(target, known > 0, self.num_classes)

    def decode(self, prediction: np.ndarray) -> np.ndarray:
        """(N, outputs) of the network to (N,) labels or numbers in the target's units."""
        if self.kind == "classes":
            return self.classes[prediction.argmax(axis=1)]
        return prediction[:, 0].astype(np.float64) * self.deviation + self.mean

    def score(self, y: Any, predicted: np.ndarray) -> float:
        """Accuracy of predicted classes, or R^2 of predicted numbers, over the rows whose target is known."""
        if self.kind == "classes":
            truth, known = self.encode(y, len(predicted))
            return float(np.mean((self.classes[truth] == predicted)[known > 0]))
        numbers = read_numbers(as_column(y, len(predicted), "y"), lambda row: f"y, row {row}")
        numbers, predicted = numbers[np.isfinite(numbers)], predicted[np.isfinite(numbers)]
        return float(1 - np.sum((numbers - predicted) ** 2) / np.sum((numbers - numbers.mean()) ** 2))


def target_columns(target: np.ndarray, known: np.ndarray, num_classes: int) -> np.ndarray:
    """A target (N,) as (N, K) float64 columns of a regression: classes but the first, or the number; NaN if unknown."""
    values = target[:, None] == np.arange(1, num_classes)[None] if num_classes else target[:, None]
    return np.where(known[:, None], values.astype(np.float64), np.nan)


def _classes(known: list[Any], labels: np.ndarray) -> np.ndarray:
    """Sorted: numbers and bools in their own dtype, everything else as labels."""
    names = sort_labels(labels)
    if not any(isinstance(value, str | bytes) for value in known):
        own = np.unique(np.array(known))
        if own.dtype.kind in "biuf" and len(own) == len(names):
            return own
    return np.array(names)
