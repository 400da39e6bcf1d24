"""Outputs of the trained stages, which the metrics are computed from, and the form of the metrics."""

import dataclasses
from typing import Any

import numpy as np

Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Outputs of the trained stages for all N rows of a cohort, as float32 arrays on the host.

    Attributes:
      latent: (N, n), the latents l.
      tau: (N, n, n), or None for a baseline, which has no such map.
      phi: (N, n), the pooled latents.
      covariate_free: (N, n), tau^-1 Phi, or None for a baseline.
      prediction: (N, outputs), logits, or the standardised target.
    """

    latent: np.ndarray
    tau: np.ndarray | None
    phi: np.ndarray
    covariate_free: np.ndarray | None
    prediction: np.ndarray


def non_finite_rows(embeddings: Embeddings) -> int:
    """Counts the rows with a latent, a rotation or a prediction that has a value that is not finite."""
    columns = [value for value in vars(embeddings).values() if value is not None]
    return int(np.sum(~np.all([np.isfinite(value.reshape(len(value), -1)).all(axis=1) for value in columns], axis=0)))


def only_finite(values: Metrics) -> Metrics:
    """Replaces numbers and intervals that are not finite by None, because JSON cannot represent them.

    Such a metric is not defined on these rows.
    """
    numbers = {name: value for name, value in values.items() if isinstance(value, float | tuple)}
    undefined = {name for name, value in numbers.items() if not np.isfinite(value).all()}
    return {name: None if name in undefined else value for name, value in values.items()}
