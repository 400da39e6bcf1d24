"""How much of a covariate is still there: a ridge regression reads it from frozen features. Never imports jax."""

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eqpool.ops.finite import check_finite


def read_covariate(train_features: np.ndarray, train_values: np.ndarray, features: np.ndarray) -> np.ndarray:
    """(M,) values that a ridge regression, its penalty chosen on the training rows, reads from `features` (M, F).

    Args:
      train_features: (N, F) frozen features of the training rows; standardised here.
      train_values: (N,) the covariate there, in its own units, in which the result is too.
      features: (M, F) of the rows that are read.

    Raises:
      ValueError: features or values that are not finite.
    """
    for name, values in (("train_features", train_features), ("train_values", train_values), ("features", features)):
        check_finite(name, values)
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13)))
    return model.fit(train_features, train_values).predict(features)
