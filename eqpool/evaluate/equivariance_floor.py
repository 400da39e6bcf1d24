"""The least equivariance error that the inputs allow, which no method can be expected to fall below."""

import numpy as np
from scipy.optimize import minimize
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from eqpool.data.cohort import Cohort, Scaling
from eqpool.evaluate.components import Components
from eqpool.evaluate.input_features import input_features
from eqpool.evaluate.outputs import Metrics
from eqpool.evaluate.readout import read_covariate
from eqpool.evaluate.scorecard import COMPONENTS
from eqpool.evaluate.scored_rows import choose_rows
from eqpool.geometry.planes import invariant_planes

_FOLDS = 5
_LARGEST_STRETCH = 20.0


def equivariance_floor_metrics(cohort: Cohort, scaling: Scaling, generators: np.ndarray, seed: int) -> Metrics:
    """Computes the equivariance error of a tau that turns by covariates predicted from the inputs.

    tau sees the inputs and not the covariates, so it can turn by no more than what the inputs predict. A ridge
    regression, and boosted trees for tables, predict each covariate of the held-out rows from the training rows. The
    one with the larger R^2 in a cross-validation of the training rows is used. The floor is `stretched_error` of its
    predictions. For small rotations by one covariate it is 1 - R^2.

    Args:
      cohort: cohort with its split.
      scaling: scaling fitted on the cohort's training rows.
      generators: (C, n, n), generators of the covariates.
      seed: seed of the choice of rows in a large cohort.

    Returns:
      `equivariance_error_floor`, and `<covariate>_r_squared_of_inputs` for each covariate.
    """
    rows = choose_rows(cohort.split, cohort.participant_id, seed)
    is_training = cohort.split[rows] == "train"
    train, test = np.flatnonzero(is_training), np.flatnonzero(~is_training)
    if len(test) < 2 or len(train) < _FOLDS or len(np.unique(cohort.participant_id[rows][train])) < 2:
        return {}
    features = input_features(cohort, rows)
    values = scaling.covariates.apply(cohort.covariates[rows]).astype(np.float64)
    people = cohort.participant_id[rows][train]
    predicted = np.column_stack(
        [
            predict_covariate(features[train], column[train], people, features[test], cohort.volumes is not None)
            for column in values.T
        ]
    )
    scores = {
        f"{name}_r_squared_of_inputs": float(r2_score(values[test, column], predicted[:, column]))
        for column, name in enumerate(cohort.covariate_names)
    }
    return scores | {"equivariance_error_floor": stretched_error(predicted, values[test], generators)}


def predict_covariate(
    train_features: np.ndarray, train_values: np.ndarray, subject: np.ndarray, features: np.ndarray, on_voxels: bool
) -> np.ndarray:
    """Predicts a covariate by the reader that is best in a cross-validation of the training rows.

    Args:
      train_features: (N, F).
      train_values: (N,), the covariate.
      subject: (N,), subject of each training row.
      features: (M, F), features of the rows to predict.
      on_voxels: whether the features are voxels, which only a ridge regression on principal components reads.

    Returns:
      (M,) predictions.
    """
    if on_voxels:
        reduction = Components.fit_few(train_features, COMPONENTS)
        return read_covariate(reduction.apply(train_features), train_values, reduction.apply(features))
    folds = GroupKFold(min(_FOLDS, len(np.unique(subject)))).split(train_features, train_values, subject)
    out_of_fold = {reader: np.empty_like(train_values) for reader in (read_covariate, _read_by_trees)}
    for fitted, held_out in folds:
        for reader, predicted in out_of_fold.items():
            predicted[held_out] = reader(train_features[fitted], train_values[fitted], train_features[held_out])
    best = max(out_of_fold, key=lambda reader: r2_score(train_values, out_of_fold[reader]))
    return best(train_features, train_values, features)


def stretched_error(predicted: np.ndarray, covariates: np.ndarray, generators: np.ndarray) -> float:
    """Computes the least equivariance error of a tau that turns by predicted covariates, each times a factor.

    The factors are those of `best_stretch` on these rows, because a regression's predictions vary less than what it
    predicts.

    Returns:
      The error, NaN if the predictions or the covariates do not vary.
    """
    return best_stretch(predicted, covariates, generators, (1 / _LARGEST_STRETCH, _LARGEST_STRETCH))[0]


def best_stretch(
    predicted: np.ndarray, covariates: np.ndarray, generators: np.ndarray, bounds: tuple[float, float]
) -> tuple[float, np.ndarray]:
    """Finds the factors on predicted covariates with the least equivariance error of a tau that turns by them.

    With tau_i = expm(-sum_c a_c p_ic B_c) u the mean over pairs of |G_ij tau_i - tau_j|^2 is a sum over planes of
    2 (1 - |mean_i exp(i w (c_i - a p_i))|^2), with w the plane's speed, and the same with c = 0 for the denominator.

    Args:
      predicted: (N, C), predictions of the scaled covariates.
      covariates: (N, C), scaled covariates.
      generators: (C, n, n), generators of the covariates.
      bounds: least and largest factor.

    Returns:
      The error and the factors a, (C,). The error is NaN and the factors are 1 if the predictions or the covariates do
      not vary.
    """
    speeds = invariant_planes(generators).speeds
    if np.ptp(predicted, axis=0).max(initial=0) == 0 or np.ptp(covariates, axis=0).max(initial=0) == 0:
        return float("nan"), np.ones(predicted.shape[1])

    def spread(values: np.ndarray) -> float:
        return float(np.sum(1 - np.abs(np.mean(np.exp(1j * values @ speeds), axis=0)) ** 2))

    def error(logarithms: np.ndarray) -> float:
        turned = predicted * np.exp(logarithms)
        return spread(covariates - turned) / spread(turned)

    bound = (np.log(bounds[0]), np.log(bounds[1]))
    starts = (np.full(predicted.shape[1], min(start, bound[1])) for start in (0.0, 1.0))
    found = min(
        (minimize(error, start, bounds=[bound] * len(start), method="Powell") for start in starts),
        key=lambda result: result.fun,
    )
    return float(found.fun), np.exp(np.atleast_1d(found.x))


def _read_by_trees(train_features: np.ndarray, train_values: np.ndarray, features: np.ndarray) -> np.ndarray:
    trees = HistGradientBoostingRegressor(random_state=0, early_stopping=False)
    with threadpool_limits(limits=1):  # as in probes.py: OpenMP's threads wait for cores that XLA uses
        return trees.fit(train_features, train_values).predict(features)
