"""Checks of the arguments of public functions: what chex asserts, raised as a ValueError that names the argument.

Shapes and dtypes are checked under any jax transformation. Values are checked where they are concrete, since a traced
one is not known before it runs.
"""

import math
import operator
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

import chex
import jax
import numpy as np
from jax.typing import ArrayLike

Size = int | str | EllipsisType


def check_shape(name: str, array: ArrayLike, expected: Sequence[Size], because: str = "") -> None:
    """Checks the shape of one argument.

    Args:
      name: of the argument.
      array: with a shape, such as a jax or numpy array or a tracer.
      expected: a size for each axis: a number; a letter, which stands for any size from 1 on ("N", of rows, for any
        size), the same wherever it is repeated; or one `...` for any number of axes.
      because: what ends the message, such as ", one entry for each row".

    Raises:
      ValueError: "latent has shape (24,), expected (N, n)".
    """
    shape = np.shape(array)
    text = ", ".join("..." if size is ... else str(size) for size in expected)
    try:
        chex.assert_shape(array, _pattern(shape, expected))
    except AssertionError:
        text = f"({text},)" if len(expected) == 1 else f"({text})"
        raise ValueError(f"{name} has shape {shape}, expected {text}{because}") from None


def check_integers(name: str, array: ArrayLike, because: str = "") -> None:
    """Raises a ValueError unless the dtype of `array` is an integer one: "site has dtype float32, expected ..."."""
    try:
        chex.assert_type(array, int)
    except AssertionError:
        raise ValueError(f"{name} has dtype {array.dtype}, expected integers{because}") from None  # type: ignore[union-attr]


def check_one_of(name: str, value: Any, expected: Sequence[str]) -> None:
    """Raises a ValueError unless `value` is one of the `expected` names: "group_map is 'log', expected ..."."""
    if not isinstance(value, str) or value not in expected:
        *others, last = map(repr, expected)
        raise ValueError(f"{name} is {value!r}, expected {', '.join(others)} or {last}")


def check_count(name: str, value: Any, least: int = 1) -> int:
    """The whole number `value`, of any integer type, as an int.

    Raises:
      ValueError: it is no whole number, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {value!r}, expected a whole number, at least {least}")
    return number


def check_positive(name: str, value: Any, *, max_rank: int = 0) -> None:
    """Raises a ValueError unless a concrete `value` is finite and above 0; a traced one passes.

    Args:
      name: of the argument.
      value: a number, or for `max_rank` 1 a number or a sequence of them that is not empty.
      max_rank: 0 or 1.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
        return
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.asarray(math.nan)
    if values.ndim > max_rank or values.size == 0 or not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError(f"{name} is {value}, expected a positive number{' or a sequence of them' * max_rank}")


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


def _pattern(shape: tuple[int, ...], expected: Sequence[Size]) -> tuple[int | None | EllipsisType, ...]:
    """`expected` as chex reads it, the size of a letter being the one it first has in `shape`."""
    sizes: dict[str, int] = {}
    after = len(expected) - 1 - list(expected).index(...) if ... in expected else 0
    for position, wanted in enumerate(expected):
        axis = position - len(expected) if position >= len(expected) - after else position
        if isinstance(wanted, str) and -len(shape) <= axis < len(shape):
            sizes.setdefault(wanted, max(shape[axis], 0 if wanted == "N" else 1))
    return tuple(sizes.get(wanted) if isinstance(wanted, str) else wanted for wanted in expected)
