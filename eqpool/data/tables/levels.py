"""Codes labels as indices of their sorted levels, and checks them against the levels of training."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from eqpool.data.tables.coding import UNKNOWN, holds_numbers, to_label, to_number
from eqpool.errors import InputError, listed

MOST_CLASS_LEVELS = 10


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct known labels: numbers first, in increasing order, then text."""
    return tuple(sorted({str(name) for name in labels} - {UNKNOWN}, key=_sorting_key))


def code_labels(
    labels: np.ndarray, names: Sequence[str] | np.ndarray | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns (N,) int32 indices into the names, -1 for a label that is unknown or not among them, and the names.

    Args:
      labels: (N,) labels from `read_labels`.
      names: names that an earlier call returned. By default, all labels, sorted.
    """
    ordered = sort_labels(labels) if names is None else tuple(str(name) for name in names)
    index = {name: position for position, name in enumerate(ordered)}
    return np.array([index.get(str(name), -1) for name in labels], np.int32), ordered


def indicators(codes: np.ndarray, levels: int) -> np.ndarray:
    """Returns (N, levels - 1) float64 columns of 0 and 1, one for each level except the first.

    Rows with code -1 are NaN.
    """
    columns = (codes[:, None] == np.arange(1, levels)[None]).astype(np.float64)
    return np.where(codes[:, None] < 0, np.nan, columns)


def is_of_classes(labels: np.ndarray, target_type: str) -> bool:
    """Returns whether an (N,) target of labels is categorical.

    With "auto", text and at most 10 distinct whole numbers are classes.
    """
    if target_type != "auto":
        return target_type == "classes"
    known = sort_labels(labels)
    found = [to_number(name) for name in known]
    whole = all(number is None or number == round(number) for number in found)
    return (len(known) <= MOST_CLASS_LEVELS and whole) or not holds_numbers(known)


def check_seen(labels: np.ndarray, levels: Sequence[str], column: str, names: Any) -> None:
    """Checks that every label is known from training.

    Args:
      labels: (N,) labels. Unknown ones pass.
      levels: levels in the training data.
      column: start of the message.
      names: (N,) names of the rows, for the message.

    Raises:
      InputError: a level is new. The message names the first such level, its rows and the levels of training.
    """
    new = [name for name in sort_labels(labels) if name not in levels]
    if new:
        rows = [str(names[row]) for row in np.flatnonzero(labels == new[0])]
        raise InputError(
            f'{column}: "{new[0]}" in {len(rows)} rows ({listed(rows)}), expected one of {", ".join(levels)} as in '
            "training"
        )


def same_labels(names: Iterable[Any], what: str) -> tuple[str, ...]:
    """Returns stored names under the current coding.

    Models of earlier versions distinguished 1 from 1.0.

    Raises:
      InputError: two of the names are the same label under the current coding.
    """
    given = [str(name) for name in names]
    labels = [to_label(name) or name for name in given]
    for place, label in enumerate(labels):
        if label in labels[:place]:
            other = given[labels.index(label)]
            raise InputError(f"{what}: {other} and {given[place]} are one label, {label}, now; train the model again")
    return tuple(labels)


def _sorting_key(name: str) -> tuple[bool, float, str]:
    number = to_number(name)
    return (number is None, number or 0.0, name)
