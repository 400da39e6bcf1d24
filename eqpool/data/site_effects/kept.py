"""Codes covariates and target as the regression columns whose effects a correction of sites has to keep."""

import numpy as np

from eqpool.data.tables.targets import target_columns


def kept_columns(covariate: np.ndarray, target: np.ndarray, known: np.ndarray, classes: int) -> np.ndarray:
    """Returns (N, P) float64 columns without an intercept.

    Args:
      covariate: (N, C) covariates in any unit.
      target: (N,) class indices, or numbers if `classes` is 0. Entries of unknown targets have no effect.
      known: (N,) 1 where the target is known, else 0. Rows of unknown target are a level of their own.
      classes: number of classes.
    """
    columns = np.nan_to_num(target_columns(target, known.astype(bool), classes))
    return np.column_stack([covariate, columns, known]).astype(np.float64)
