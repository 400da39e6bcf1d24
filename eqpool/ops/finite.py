"""Which rows of a host array hold NaN or infinity, in one line. Never imports jax."""

from collections.abc import Sequence

import numpy as np


def non_finite_rows(name: str, array: np.ndarray, names: Sequence[str] | np.ndarray | None = None) -> str:
    """What to say of the rows of a host array (N, ...) that hold NaN or infinity; "" where none does.

    Args:
      name: of what the rows hold.
      array: (N, ...).
      names: of the rows (N,), by which to name them; by default "row 0" and so on.

    Returns:
      Such as "phi is not finite in 2 of 30 rows (row 3, row 8)", naming three rows at most.
    """
    array = np.asarray(array)
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)) if array.size else np.zeros(0, int)
    if not len(bad):
        return ""
    named = ", ".join(f"row {row}" if names is None else str(names[row]) for row in bad[:3])
    named += ", ..." if len(bad) > 3 else ""
    return f"{name} is not finite in {len(bad)} of {len(array)} rows ({named})"


def check_finite(name: str, array: np.ndarray, names: Sequence[str] | np.ndarray | None = None) -> None:
    """Raises a ValueError with the line of `non_finite_rows`, whose arguments it takes, where a row is not finite."""
    problem = non_finite_rows(name, array, names)
    if problem:
        raise ValueError(f"{problem}, expected finite numbers")
