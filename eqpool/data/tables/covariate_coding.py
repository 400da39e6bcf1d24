"""Encodes covariates, numbers and categories, as the columns of a regression."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from eqpool.data.tables.coding import UNKNOWN
from eqpool.data.tables.levels import code_labels, indicators, sort_labels


@dataclasses.dataclass(frozen=True)
class CovariateCoding:
    """The covariates of a fit: numbers, and categories with their levels.

    Attributes:
      levels: sorted levels of each column, by column name, and () for numbers. Each level except the first, which is
        the reference, becomes a column of 0 and 1. The first level is "" if it is not known, because only the names of
        the columns were stored.
    """

    levels: dict[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the C names of the columns: `age`, or `sex=M` for a level."""
        expanded = ([f"{name}={level}" for level in levels[1:]] or [name] for name, levels in self.levels.items())
        return tuple(name for names in expanded for name in names)

    @classmethod
    def from_names(cls, names: tuple[str, ...]) -> "CovariateCoding":
        """Builds the coding from the column names alone, which do not include the reference levels."""
        levels: dict[str, tuple[str, ...]] = {}
        for name in names:
            column, is_level, level = name.partition("=")
            levels[column] = (*(levels.get(column) or (UNKNOWN,)), level) if is_level else ()
        return cls(levels)

    def new_levels(self, name: str, labels: np.ndarray) -> tuple[str, ...]:
        """Returns the sorted levels of a category's (N,) labels that the coding does not know.

        A single one is known all the same if the reference is not known, because it may be the reference.
        """
        levels = self.levels[name]
        new = tuple(level for level in sort_labels(labels) if level not in levels)
        return () if levels[0] == UNKNOWN and len(new) == 1 else new

    def encode(self, columns: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """Returns N = `count` rows as (N, C) float64, NaN where a value is missing.

        Args:
          columns: (N,) float64 numbers or (N,) labels by column name. Labels have no `new_levels`.
          count: N.
        """
        blocks = [self._block(levels, columns[name]) for name, levels in self.levels.items()]
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((count, 0))

    @staticmethod
    def _block(levels: tuple[str, ...], values: np.ndarray) -> np.ndarray:
        if not levels:
            return values[:, None]
        codes, _ = code_labels(values, levels[1:])  # -1 for the reference, known or not
        return indicators(np.where(values == UNKNOWN, -1, codes + 1), len(levels))
