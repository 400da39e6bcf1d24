"""Which rows of a host array hold NaN or infinity, in one line. Never imports jax."""

from collections.abc import Callable

import numpy as np


def non_finite_rows(name: str, array: np.ndarray, label: Callable[[int], str] = "row {}".format) -> str:
    """What to say of the rows of a host array (N, ...) that hold NaN or infinity; "" where none does.

    Args:
      name: of what the rows hold.
      array: (N, ...).
      label: of a row, by its index.

    Returns:
      Such as "phi is not finite in 2 of 30 rows (row 3, row 8)", naming three rows at most.
    """
    array = np.asarray(array)
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)) if array.size else np.zeros(0, int)
    if not len(bad):
        return ""
    named = ", ".join(label(int(row)) for row in bad[:3]) + (", ..." if len(bad) > 3 else "")
    return f"{name} is not finite in {len(bad)} of {len(array)} rows ({named})"


def check_finite(name: str, array: np.ndarray, label: Callable[[int], str] = "row {}".format) -> None:
    """Raises a ValueError with the line of `non_finite_rows`, whose arguments it takes, where a row is not finite."""
    problem = non_finite_rows(name, array, label)
    if problem:
        raise ValueError(f"{problem}, expected finite numbers")
