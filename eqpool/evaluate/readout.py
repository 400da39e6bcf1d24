"""Prediction of a covariate or of classes from frozen features by linear models. This module never imports jax."""

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from eqpool.evaluate.folds import subject_folds
from eqpool.evaluate.intervals import balanced_accuracy
from eqpool.ops.finite import check_finite

_STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse penalties of the logistic regression, for standardised features


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


def read_classes(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    train_subject: np.ndarray,
    features: np.ndarray,
    num_folds: int = 5,
) -> np.ndarray:
    """Predicts classes by logistic regression, with the penalty chosen by cross-validation on the training rows.

    Features are standardised by the training rows, and classes weigh equally. A subject's rows share a fold.

    Args:
      train_features: (N, F) features of the training rows.
      train_labels: (N,) int labels of at least two classes.
      train_subject: (N,) subject of each training row.
      features: (M, F) features of the rows to predict.
      num_folds: most folds. A class of a single subject leaves none, and the middle penalty is used.

    Returns:
      The predicted labels, (M,).

    Raises:
      ValueError: features are not finite.
    """
    for name, values in (("train_features", train_features), ("features", features)):
        check_finite(name, values)
    scaler = StandardScaler().fit(train_features)
    standardised = scaler.transform(train_features)
    folds = subject_folds(train_labels, train_subject, num_folds)
    accuracies = [_validated_accuracy(standardised, train_labels, folds, strength) for strength in _STRENGTHS]
    best = _STRENGTHS[int(np.argmax(accuracies))] if folds else _STRENGTHS[len(_STRENGTHS) // 2]
    with threadpool_limits(limits=1):
        return _classifier(best).fit(standardised, train_labels).predict(scaler.transform(features))


def _validated_accuracy(
    features: np.ndarray, labels: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]], strength: float
) -> float:
    """Returns the balanced accuracy over all held-out folds."""
    predicted = np.empty_like(labels)
    with threadpool_limits(limits=1):
        for train, test in folds:
            predicted[test] = _classifier(strength).fit(features[train], labels[train]).predict(features[test])
    return balanced_accuracy(labels, predicted)


def _classifier(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=2000, class_weight="balanced")
