"""The batch at which training breaks: which step, which terms, whose rows."""

from typing import NamedTuple

import jax
import numpy as np

MOST_NAMED = 8


class StepTerms(NamedTuple):
    """What an epoch keeps of each of its S steps.

    Attributes:
      terms: name -> (S,) values of the loss terms, "loss" and "gradient_norm" among them.
      rows: (S, B) int32, positions among the training rows.
      mask: (S, B) float32, 0 for padding.
    """

    terms: dict[str, jax.Array]
    rows: jax.Array | np.ndarray
    mask: jax.Array | np.ndarray


class BadBatch(ArithmeticError):
    """Loss terms of a step, or its gradient, are not finite.

    Attributes:
      step: its number, from 1 as the log counts.
      terms: the names of what is not finite.
      rows: positions of the batch among the training rows.
    """

    def __init__(self, step: int, terms: list[str], rows: np.ndarray):
        super().__init__(f"step {step}: {', '.join(terms)} not finite")
        self.step, self.terms, self.rows = step, terms, rows

    def describe(self, names: np.ndarray | None) -> str:
        """ "step 57: loss not finite for the batch of sub-03, sub-11, ... (128 rows)"; rows are counted from 0."""
        named = [f"row {row}" for row in self.rows] if names is None else [str(name) for name in names[self.rows]]
        shown = ", ".join(named[:MOST_NAMED]) + (", ..." if len(named) > MOST_NAMED else "")
        return f"step {self.step}: {', '.join(self.terms)} not finite for the batch of {shown} ({len(named)} rows)"


def check_steps(steps: StepTerms, first: int) -> None:
    """Raises `BadBatch` for the first step whose terms are not all finite; `first` is the first one's number."""
    terms = jax.device_get(steps.terms)
    finite = np.all([np.isfinite(values) for values in terms.values()], axis=0)
    if finite.all():
        return
    index = int(np.argmin(finite))
    rows, mask = np.asarray(steps.rows[index]), np.asarray(steps.mask[index])
    raise BadBatch(
        first + index, [name for name, values in terms.items() if not np.isfinite(values[index])], rows[mask > 0]
    )
