"""Fits the factors on tau's angles, so that tau rotates by age and not by age regressed to the mean."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from eqpool.evaluate.equivariance_floor import best_stretch
from eqpool.geometry.stretch import mean_frame, read_angles

_FEWEST_ROWS = 10
_BOUNDS = (1.0, 5.0)  # 5 is the factor for a reading that explains a fifth of the covariate's variance


class Stretch(NamedTuple):
    """The arguments of `eqpool.geometry.stretch.stretch_rotations`.

    Attributes:
      frame: (n, n) float32, the frame of the training rows at their mean covariates.
      factor: (C,) float32, factors from 1 to 5.
    """

    frame: np.ndarray
    factor: np.ndarray


def fit_stretch(
    tau: np.ndarray, covariate: np.ndarray, train: np.ndarray, held_out: np.ndarray, generators: np.ndarray
) -> Stretch:
    """Finds the frame of tau on the training rows, and the factors with the least equivariance error on held-out rows.

    On the training rows tau follows the covariates closely, because it was trained on them. How far its readings are
    regressed to the mean shows in other rows only. For small rotations the factor is 1 / R^2 of the held-out readings.

    Args:
      tau: (N, n, n) rotations of all rows.
      covariate: (N, C), scaled covariates.
      train: indices of the rows on which tau was trained.
      held_out: indices of other rows. With fewer than 10 the factors are 1.
      generators: (C, n, n), generators of the covariates.
    """
    centre = covariate[train].mean(axis=0, dtype=np.float64)
    frame = mean_frame(tau[train], covariate[train], centre, generator=generators).astype(np.float32)
    if len(held_out) < _FEWEST_ROWS:
        return Stretch(frame, np.ones(len(centre), np.float32))
    angles = np.asarray(read_angles(jnp.asarray(tau[held_out]), frame, generator=generators), np.float64)
    readings = angles / np.linalg.norm(generators, 2, axis=(1, 2))
    _, factor = best_stretch(readings, covariate[held_out] - centre, generators, _BOUNDS)
    return Stretch(frame, factor.astype(np.float32))
