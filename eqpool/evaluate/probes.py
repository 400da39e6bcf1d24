"""Can the site be told from frozen features? Probes from scratch, and the strongest is what counts."""

from typing import NamedTuple

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from eqpool.config import EvaluateConfig
from eqpool.evaluate.adversary import adversary_scores
from eqpool.evaluate.intervals import Interval, area_under_curve, balanced_accuracy, bootstrap_interval


class ProbeScore(NamedTuple):
    """One probe's success on held-out rows.

    Attributes:
      probe: "logistic", "mlp" or "boosted_trees".
      accuracy: share of rows whose site was told.
      balanced_accuracy: mean recall over sites; its chance level is 1 / sites.
      balanced_accuracy_interval: 95%, over subjects.
      auc: max(AUC, 1 - AUC) for two sites, else NaN.
    """

    probe: str
    accuracy: float
    balanced_accuracy: float
    balanced_accuracy_interval: Interval
    auc: float


def probe_panel(
    train_features: np.ndarray,
    train_site: np.ndarray,
    test_features: np.ndarray,
    test_site: np.ndarray,
    *,
    config: EvaluateConfig,
    num_sites: int,
    seed: int,
) -> list[ProbeScore]:
    """Trains each probe on one split's frozen features (N, F), float32, and scores it on another's (M, F).

    Returns:
      One score a probe: logistic regression, the paper's adversary ("mlp"), gradient-boosted trees.
    """
    scores = {
        "logistic": _library_scores(make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), num_sites),
        "boosted_trees": _library_scores(HistGradientBoostingClassifier(random_state=seed), num_sites),
        "mlp": lambda *arrays: adversary_scores(
            *arrays,
            num_sites=num_sites,
            epochs=config.adversary_epochs,
            learning_rate=config.adversary_learning_rate,
            batch_size=config.adversary_batch_size,
            seed=seed,
        ),
    }
    return [
        _score(name, test_site, fit_and_score(train_features, train_site, test_features), config, seed)
        for name, fit_and_score in scores.items()
    ]


def strongest(scores: list[ProbeScore]) -> ProbeScore:
    """The probe with the highest balanced accuracy."""
    return max(scores, key=lambda score: score.balanced_accuracy)


def site_floor_features(covariates: np.ndarray, target: np.ndarray, target_classes: tuple[str, ...]) -> np.ndarray:
    """(N, F) float32: covariates and target alone; what they tell of the site is not the scanner's doing."""
    encoded = np.eye(len(target_classes))[target] if target_classes else np.nan_to_num(target)[:, None]
    return np.concatenate([covariates, encoded], axis=1).astype(np.float32)


def _library_scores(model, num_sites: int):
    def fit_and_score(train_features, train_site, test_features):
        scores = np.zeros((len(test_features), num_sites), np.float32)
        # One thread: OpenMP's busy waiting takes minutes instead of seconds where cores are shared with XLA's threads.
        with threadpool_limits(limits=1):
            model.fit(train_features, train_site)
            scores[:, model.classes_] = model.predict_proba(test_features)
        return scores

    return fit_and_score


def _score(name: str, site: np.ndarray, scores: np.ndarray, config: EvaluateConfig, seed: int) -> ProbeScore:
    predicted = scores.argmax(axis=1)
    interval = bootstrap_interval(
        lambda rows: balanced_accuracy(site[rows], predicted[rows]), len(site), config.bootstraps, seed
    )
    auc = area_under_curve(site, scores[:, 1]) if scores.shape[1] == 2 else float("nan")
    return ProbeScore(name, float(np.mean(site == predicted)), balanced_accuracy(site, predicted), interval, auc)
