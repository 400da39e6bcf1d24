"""Can the site be told from frozen features? A panel of probes from scratch; the strongest is what counts."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from eqpool.config import EvaluateConfig
from eqpool.evaluate.adversary import adversary_scores
from eqpool.evaluate.intervals import Interval, area_under_curve, balanced_accuracy, bootstrap_interval
from eqpool.evaluate.metrics import permute_subjects
from eqpool.ops.finite import check_finite
from eqpool.storage.progress import track

# (training features, training site, held-out features) -> (seeds, held-out rows, sites) scores
Probe = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class ProbeScore(NamedTuple):
    """One probe's success on held-out rows; the mean over seeds where its fit is random.

    Attributes:
      probe: "logistic", "mlp" (the paper's adversary) or "boosted_trees".
      design: "transfer", trained on the training split; or "within", cross-validated inside the held-out split.
      accuracy: share of rows whose site was told.
      balanced_accuracy: mean recall over sites; its chance level is 1 / sites.
      balanced_accuracy_interval: 95%, over subjects.
      auc: max(AUC, 1 - AUC) for two sites, else NaN.
    """

    probe: str
    design: str
    accuracy: float
    balanced_accuracy: float
    balanced_accuracy_interval: Interval
    auc: float


def probe_panel(
    features: np.ndarray,
    site: np.ndarray,
    subject: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    *,
    config: EvaluateConfig,
    num_sites: int,
    within: bool = True,
) -> list[ProbeScore]:
    """Every probe by two designs, scored on the rows `test`.

    "transfer" trains on the rows `train`, whose features pooling has seen; "within" is cross-validated among the rows
    `test`, which it has not: features can be made blind on the first and still tell the site on the second.

    Args:
      features: (N, F) frozen; each probe standardises them on its own training rows.
      site: (N,) site index, known on all rows named.
      subject: (N,) identifiers; one subject's rows are never on both sides.
      train, test: row indices; no subject is in both.
      config: of the probes.
      num_sites: classes.
      within: False leaves out the second design, which takes most of the time.

    Returns:
      Scores of logistic regression, the paper's adversary and gradient-boosted trees; none where either of `train` and
      `test` has fewer than two sites, so that there is nothing to be told.

    Raises:
      ValueError: features of these rows that are not finite.
    """
    for rows in (train, test):
        check_finite("features", features[rows], [f"row {row}" for row in rows])
    if min(len(np.unique(site[rows])) for rows in (train, test)) < 2:
        return []
    inside = test[_of_larger_sites(site[test], subject[test])]
    folds = _folds(site[inside], subject[inside], config.probe_folds) if within else []
    scores = []
    for name, probe in track(_probes(config, num_sites).items(), "Probing for the site", unit="probe"):
        transferred = probe(features[train], site[train], features[test])
        scores.append(_score(name, "transfer", site[test], subject[test], transferred, config))
        if folds:
            validated = _cross_validated(probe, features[inside], site[inside], folds, num_sites)
            scores.append(_score(name, "within", site[inside], subject[inside], validated, config))
    return scores


def strongest(scores: list[ProbeScore]) -> ProbeScore:
    """The score with the highest balanced accuracy."""
    return max(scores, key=lambda score: score.balanced_accuracy)


def strongest_by_chance(
    panel: Callable[[np.ndarray], list[ProbeScore]],
    site: np.ndarray,
    subject: np.ndarray,
    stratum: np.ndarray,
    splits: Sequence[np.ndarray],
    permutations: int,
) -> np.ndarray:
    """(permutations,) the balanced accuracy of `strongest` once sites are dealt anew to the subjects.

    The best of several probes on few rows lies above 1 / sites where there is nothing to be told: this is how far.

    Args:
      panel: from (N,) sites to the scores of `probe_panel`.
      site, subject: (N,), as for `probe_panel`.
      stratum: (N,) what features may tell and sites have in other shares, as a diagnosis, of which nothing is to be
        learnt about scanners.
      splits: row indices; each keeps its own subjects and its own numbers of sites. The sites of a subject's rows go
        together to another subject with as many rows, of the same stratum (`eqpool.evaluate.metrics.permute_subjects`).
      permutations: how many.
    """
    people, levels = (np.unique(of_row, return_inverse=True)[1] for of_row in (subject, stratum))
    scores = []
    for key in track(jax.random.split(jax.random.key(0), permutations), "Probing shuffled sites", unit="permutation"):
        shuffled = site.copy()
        for part, rows in enumerate(splits):
            all_count = jnp.ones(len(rows), bool)
            order = permute_subjects(jax.random.fold_in(key, part), people[rows], all_count, levels[rows])
            shuffled[rows] = site[rows][order]
        scores.append(strongest(panel(shuffled)).balanced_accuracy)
    return np.array(scores)


def site_floor_features(covariates: np.ndarray, target: np.ndarray, target_classes: tuple[str, ...]) -> np.ndarray:
    """(N, F) float32: covariates and target alone; what they tell of the site is not the scanner's doing."""
    encoded = np.eye(len(target_classes))[target] if target_classes else np.nan_to_num(target)[:, None]
    return np.concatenate([covariates, encoded], axis=1).astype(np.float32)


def _probes(config: EvaluateConfig, num_sites: int) -> dict[str, Probe]:
    def mlp(train_features: np.ndarray, train_site: np.ndarray, test_features: np.ndarray) -> np.ndarray:
        return adversary_scores(
            train_features,
            train_site,
            test_features,
            num_sites=num_sites,
            epochs=config.adversary_epochs,
            learning_rate=config.adversary_learning_rate,
            batch_size=config.adversary_batch_size,
            seeds=config.probe_seeds,
        )

    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
    trees = HistGradientBoostingClassifier(random_state=0, class_weight="balanced", early_stopping=False)
    return {"logistic": _of_library(logistic, num_sites), "mlp": mlp, "boosted_trees": _of_library(trees, num_sites)}


def _of_library(model: Any, num_sites: int) -> Probe:
    """A scikit-learn classifier whose fit draws nothing at random: one seed says all."""

    def probe(train_features: np.ndarray, train_site: np.ndarray, test_features: np.ndarray) -> np.ndarray:
        scores = np.zeros((1, len(test_features), num_sites), np.float32)
        # One thread: OpenMP's busy waiting takes minutes instead of seconds where cores are shared with XLA's threads.
        with threadpool_limits(limits=1):
            model.fit(train_features, train_site)
            scores[0][:, model.classes_] = model.predict_proba(test_features)
        return scores

    return probe


def _of_larger_sites(site: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """(N,) bool: rows of sites with two subjects at least, among which one can be held out."""
    larger = [label for label in np.unique(site) if len(np.unique(subject[site == label])) > 1]
    return np.isin(site, larger)


def _folds(site: np.ndarray, subject: np.ndarray, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(training rows, held-out rows) without a subject on both sides; none where there are fewer than two sites."""
    subjects_a_site = [len(np.unique(subject[site == label])) for label in np.unique(site)]
    count = min([count, *subjects_a_site])
    if count < 2 or len(subjects_a_site) < 2:
        return []
    return list(StratifiedGroupKFold(count, shuffle=True, random_state=0).split(site, site, subject))


def _cross_validated(
    probe: Probe, features: np.ndarray, site: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]], num_sites: int
) -> np.ndarray:
    """(seeds, N, sites): the probe's scores of every row, by a fit that did not see its fold."""
    # One size for all folds, so that the compiled adversary serves them all; no row is held out twice.
    size = min(len(train) for train, _ in folds)
    largest = max(len(test) for _, test in folds)
    parts = []
    for train, test in track(folds, "Cross-validating", unit="fold"):
        used = _of_every_site(train, site, size)
        parts.append(probe(features[used], site[used], features[np.resize(test, largest)])[:, : len(test)])
    scores = np.zeros((len(parts[0]), len(site), num_sites), np.float32)
    for (_, test), part in zip(folds, parts, strict=True):
        scores[:, test] = part
    return scores


def _of_every_site(rows: np.ndarray, site: np.ndarray, size: int) -> np.ndarray:
    """The first `size` rows; or, where a site would be without any, as many that begin with the first of each site."""
    _, first = np.unique(site[rows], return_index=True)
    if first.max() < size:
        return rows[:size]
    return np.concatenate([rows[first], np.delete(rows, first)])[:size]


def _score(
    name: str, design: str, site: np.ndarray, subject: np.ndarray, scores: np.ndarray, config: EvaluateConfig
) -> ProbeScore:
    check_finite(f"the score of the probe {name!r}", np.moveaxis(scores, 1, 0))  # argmax would take NaN for a site
    predicted = scores.argmax(axis=2)

    def mean_over_seeds(rows: np.ndarray) -> float:
        return float(np.mean([balanced_accuracy(site[rows], seed[rows]) for seed in predicted]))

    everyone = np.arange(len(site))
    aucs = [area_under_curve(site, seed[:, 1]) if seed.shape[1] == 2 else float("nan") for seed in scores]
    return ProbeScore(
        probe=name,
        design=design,
        accuracy=float(np.mean(predicted == site)),
        balanced_accuracy=mean_over_seeds(everyone),
        balanced_accuracy_interval=bootstrap_interval(mean_over_seeds, len(site), config.bootstraps, 0, subject),
        auc=float(np.mean(aucs)),
    )
