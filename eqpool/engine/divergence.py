"""Reports the batch at which training diverged: the step, the loss terms and the rows."""

from typing import NamedTuple

import jax
import numpy as np

from eqpool.errors import listed


class StepTerms(NamedTuple):
    """The loss terms and the rows of each of an epoch's S steps.

    Attributes:
      terms: name -> (S,) values of the loss terms, including "loss" and "gradient_norm".
      rows: (S, B) int32, positions among the training rows.
      mask: (S, B) float32, 0 for padding.
    """

    terms: dict[str, jax.Array]
    rows: jax.Array | np.ndarray
    mask: jax.Array | np.ndarray


class BadBatch(ArithmeticError):
    """A training step whose loss terms or gradient are not finite.

    Attributes:
      step: number of the step, counted from 1 as in the log.
      terms: names of the values that are not finite.
      rows: positions of the batch among the training rows.
    """

    def __init__(self, step: int, terms: list[str], rows: np.ndarray):
        super().__init__(f"step {step}: {', '.join(terms)} not finite")
        self.step, self.terms, self.rows = step, terms, rows

    def describe(self, names: np.ndarray | None) -> str:
        """Describes the step: "step 57: loss not finite for the batch of sub-03, sub-11, ... (128 rows)".

        Without `names` the message numbers the rows from 0.
        """
        named = [f"row {row}" for row in self.rows] if names is None else [str(name) for name in names[self.rows]]
        batch = f"{listed(named, most=8)} ({len(named)} rows)"
        return f"step {self.step}: {', '.join(self.terms)} not finite for the batch of {batch}"


def check_steps(steps: StepTerms, first: int) -> None:
    """Raises `BadBatch` for the first step with a term that is not finite; `first` is the number of the first step."""
    terms = jax.device_get(steps.terms)
    finite = np.all([np.isfinite(values) for values in terms.values()], axis=0)
    if finite.all():
        return
    index = int(np.argmin(finite))
    rows, mask = np.asarray(steps.rows[index]), np.asarray(steps.mask[index])
    raise BadBatch(
        first + index, [name for name, values in terms.items() if not np.isfinite(values[index])], rows[mask > 0]
    )
