"""Messages about rows of host arrays that hold NaN or infinity. This module never imports jax."""

from collections.abc import Sequence

import numpy as np


def non_finite_rows(name: str, array: np.ndarray, names: Sequence[str] | np.ndarray | None = None) -> str:
    """Describes the rows of a host array that hold NaN or infinity.

    Args:
      name: name of the array in the message.
      array: (N, ...) array.
      names: (N,) names of the rows, by default "row 0" and so on.

    Returns:
      A message such as "phi is not finite in 2 of 30 rows (row 3, row 8)", which names at most three rows. It is empty
      if all rows are finite.
    """
    array = np.asarray(array)
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)) if array.size else np.zeros(0, int)
    if not len(bad):
        return ""
    named = ", ".join(f"row {row}" if names is None else str(names[row]) for row in bad[:3])
    named += ", ..." if len(bad) > 3 else ""
    return f"{name} is not finite in {len(bad)} of {len(array)} rows ({named})"


def check_finite(name: str, array: np.ndarray, names: Sequence[str] | np.ndarray | None = None) -> None:
    """Raises a ValueError with the message of `non_finite_rows` if a row is not finite. Arguments are the same."""
    problem = non_finite_rows(name, array, names)
    if problem:
        raise ValueError(f"{problem}, expected finite numbers")
