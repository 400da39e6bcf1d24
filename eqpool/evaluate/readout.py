"""Prediction of a covariate from frozen features by ridge regression. This module never imports jax."""

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eqpool.ops.finite import check_finite


def read_covariate(train_features: np.ndarray, train_values: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Predicts a covariate by a ridge regression, with the penalty chosen on the training rows.

    Features are standardised by the training rows.

    Args:
      train_features: (N, F), frozen features of the training rows. They are standardised here.
      train_values: (N,), covariate of the training rows.
      features: (M, F), features of the rows to predict.

    Returns:
      The predictions, (M,), in the covariate's units.

    Raises:
      ValueError: features or values are not finite.
    """
    for name, values in (("train_features", train_features), ("train_values", train_values), ("features", features)):
        check_finite(name, values)
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13)))
    return model.fit(train_features, train_values).predict(features)
