"""Computes how well the target, and each covariate, is predicted on held-out rows."""

from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.metrics import mean_absolute_error, r2_score

from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.evaluate.intervals import balanced_accuracy, bootstrap_interval, chance_level
from eqpool.evaluate.outputs import Embeddings, Metrics
from eqpool.evaluate.readout import read_covariate
from eqpool.ops.finite import check_finite


def target_metrics(
    cohort: Cohort, scaling: Scaling, prediction: np.ndarray, test: np.ndarray, config: EvaluateConfig, seed: int
) -> Metrics:
    """Computes the accuracy of the predicted target, with levels that need no features.

    For classes these are accuracy and balanced accuracy (percent). Their levels are `majority_accuracy`, that of always
    predicting the most common class, and `target_chance`, the balanced accuracy of a guess. For a numeric target they
    are MAE, in the target's units, its skill and R^2. The level of the MAE is `constant_mae`, that of always predicting
    the median, and the skill `mae_skill` is 1 - mae / constant_mae.
    """
    known = cohort.target_known[test]
    truth, prediction = cohort.target[test][known], prediction[known]
    check_finite("prediction", prediction, cohort.participant_id[test][known])
    score = partial(_with_interval, subject=cohort.participant_id[test][known], config=config, seed=seed)
    if cohort.target_classes:
        predicted = prediction.argmax(axis=1)
        return {
            **score("accuracy", lambda t, p: 100 * float(np.mean(t == p)), truth, predicted),
            **score("balanced_accuracy", lambda t, p: 100 * balanced_accuracy(t, p), truth, predicted),
            "majority_accuracy": 100 * float(np.bincount(truth).max() / len(truth)) if len(truth) else float("nan"),
            "target_chance": 100 * chance_level(truth),
        }
    if not len(truth):
        return dict.fromkeys(("mae", "mae_skill", "r_squared", "constant_mae"), float("nan"))
    predicted = prediction[:, 0] * scaling.target_deviation + scaling.target_mean
    return {
        **score("mae", mean_absolute_error, truth, predicted),
        **score("mae_skill", skill, truth, predicted),
        **score("r_squared", r2_score, truth, predicted),
        "constant_mae": _constant_mae(truth),
    }


def kept_metrics(cohort: Cohort, embeddings: Embeddings, config: EvaluateConfig, seed: int) -> Metrics:
    """Computes how well a ridge regression predicts each covariate from Phi on the test split.

    `kept_<covariate>_skill` is 1 - the MAE over that of always predicting the median.
    `kept_<covariate>_r_squared_before` is the same R^2 from the latent l. A baseline lacks it. `<covariate>_range` is
    the covariate's range in the whole cohort.
    """
    train, test = cohort.rows("train"), cohort.rows("test")
    subject = cohort.participant_id[test]
    result: Metrics = {}
    for column, name in enumerate(cohort.covariate_names):
        values = cohort.covariates[:, column]
        score = partial(_with_interval, truth=values[test], subject=subject, config=config, seed=seed)
        after = read_covariate(embeddings.phi[train], values[train], embeddings.phi[test])
        result |= score(f"kept_{name}_mae", mean_absolute_error, predicted=after)
        result |= score(f"kept_{name}_skill", skill, predicted=after)
        result |= score(f"kept_{name}_r_squared", r2_score, predicted=after)
        if embeddings.tau is not None:
            before = read_covariate(embeddings.latent[train], values[train], embeddings.latent[test])
            result |= score(f"kept_{name}_r_squared_before", r2_score, predicted=before)
        result[f"{name}_range"] = (float(values.min()), float(values.max()))
    return result


def selection_metrics(cohort: Cohort, prediction: np.ndarray) -> Metrics:
    """Computes the accuracy (percent) on the validation split, for comparing settings.

    The result is empty for a numeric target.
    """
    if not cohort.target_classes:
        return {}
    rows = np.flatnonzero((cohort.split == "validation") & cohort.target_known)
    return {"selection_accuracy": 100 * float(np.mean(prediction[rows].argmax(axis=1) == cohort.target[rows]))}


def skill(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Computes 1 - MAE / MAE of always predicting the median of `truth`; NaN if all of it is equal.

    It is 0 for a prediction that is no better than this constant, and 1 for an exact one.
    """
    constant = _constant_mae(truth)
    return 1 - float(mean_absolute_error(truth, predicted)) / constant if constant else float("nan")


def _constant_mae(truth: np.ndarray) -> float:
    return float(np.mean(np.abs(truth - np.median(truth))))


def _with_interval(
    name: str,
    score: Callable[[np.ndarray, np.ndarray], float],
    truth: np.ndarray,
    predicted: np.ndarray,
    subject: np.ndarray,
    config: EvaluateConfig,
    seed: int,
) -> Metrics:
    """Returns score(truth, predicted) as `name`, and its bootstrap interval over subjects as `name_interval`."""

    def drawn(rows: np.ndarray) -> float:
        return score(truth[rows], predicted[rows])

    interval = bootstrap_interval(drawn, len(truth), config.bootstraps, seed, subject)
    return {name: float(score(truth, predicted)), f"{name}_interval": interval}
