"""Checks of the arguments of public functions, which raise a ValueError that names the argument.

Shapes and dtypes are checked with chex, under any JAX transformation. Values are checked where they are concrete,
because a traced value is not known before the program runs.
"""

import math
import operator
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import chex
import jax
import numpy as np
from jax.typing import ArrayLike

Size = int | str | EllipsisType

_MAY_BE_EMPTY = ("N", "K")  # axes of rows, and of conditions


def check_shape(name: str, array: ArrayLike, expected: Sequence[Size], because: str = "") -> None:
    """Checks the shape of one argument.

    Args:
      name: name of the argument.
      array: object with a shape, such as a JAX or NumPy array or a tracer.
      expected: size of each axis. A number is that size. A letter is any size from 1 on, or from 0 on for "N" and "K",
        and has the same size wherever it is repeated. One `...` is any number of axes.
      because: end of the message, such as ", one entry for each row".

    Raises:
      ValueError: the shape is another, such as "latent has shape (24,), expected (N, n)".
    """
    shape = np.shape(array)
    text = ", ".join("..." if size is ... else str(size) for size in expected)
    try:
        chex.assert_shape(array, _pattern(shape, expected))
    except AssertionError:
        text = f"({text},)" if len(expected) == 1 else f"({text})"
        raise ValueError(f"{name} has shape {shape}, expected {text}{because}") from None


def check_integers(name: str, array: ArrayLike, because: str = "") -> None:
    """Raises a ValueError unless the dtype of `array` is an integer dtype: "site has dtype float32, expected ..."."""
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
    """Returns the whole number `value`, of any integer type, as an int.

    Raises:
      ValueError: `value` is not a whole number, or less than `least`.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        kind = "a whole number, " if number is None else ""
        raise ValueError(f"{name} is {value!r}, expected {kind}at least {least}")
    return number


def check_positive(name: str, value: Any, *, max_rank: int = 0) -> None:
    """Raises a ValueError unless a concrete `value` is finite and above 0. A traced value passes.

    Args:
      name: name of the argument.
      value: number, or for `max_rank` 1 a number or a non-empty sequence of numbers.
      max_rank: 0 or 1.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
        return
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.asarray(math.nan)
    if values.ndim > max_rank or values.size == 0 or not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError(f"{name} is {value}, expected a positive number{' or a sequence of them' * max_rank}")


def _pattern(shape: tuple[int, ...], expected: Sequence[Size]) -> tuple[int | None | EllipsisType, ...]:
    """Returns `expected` as chex reads it. The size of a letter is its first one in `shape`."""
    sizes: dict[str, int] = {}
    after = len(expected) - 1 - list(expected).index(...) if ... in expected else 0
    for position, wanted in enumerate(expected):
        axis = position - len(expected) if position >= len(expected) - after else position
        if isinstance(wanted, str) and -len(shape) <= axis < len(shape):
            sizes.setdefault(wanted, max(shape[axis], 0 if wanted in _MAY_BE_EMPTY else 1))
    return tuple(sizes.get(wanted) if isinstance(wanted, str) else wanted for wanted in expected)
