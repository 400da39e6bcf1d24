"""Measures whether the site is predictable from frozen features, by the strongest of several probes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from eqpool.config import EvaluateConfig
from eqpool.evaluate.adversary import adversary_scores
from eqpool.evaluate.boosted_trees import boosted_trees
from eqpool.evaluate.cores import map_on_cores
from eqpool.evaluate.folds import of_larger_sites, subject_folds
from eqpool.evaluate.intervals import Interval, area_under_curve, balanced_accuracy, bootstrap_interval
from eqpool.evaluate.permutations import permute_subjects
from eqpool.ops.finite import check_finite
from eqpool.storage.progress import track

# (training features, training site, held-out features) -> (seeds, held-out rows, sites) scores
Probe = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
LIBRARY_PROBES, ADVERSARY = ("logistic", "boosted_trees"), "mlp"  # of scikit-learn, and in JAX
PROBES = ("logistic", "mlp", "boosted_trees")


class ProbeScore(NamedTuple):
    """The site classification scores of one probe on held-out rows, averaged over seeds if its fit is random.

    Attributes:
      probe: "logistic", "mlp" (the adversary of Lokhande et al. 2022) or "boosted_trees".
      design: "transfer", trained on the training split, or "within", cross-validated inside the held-out split.
      accuracy: fraction of rows whose site was predicted correctly.
      balanced_accuracy: mean recall over sites, with chance level 1 / sites.
      balanced_accuracy_interval: 95% interval over subjects.
      auc: max(AUC, 1 - AUC) for two sites, else NaN.
    """

    probe: str
    design: str
    accuracy: float
    balanced_accuracy: float
    balanced_accuracy_interval: Interval
    auc: float


Panel = Callable[[np.ndarray], list[ProbeScore]]


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
    probes: Sequence[str] = PROBES,
) -> list[ProbeScore]:
    """Fits every probe in two designs and scores it on the rows `test`.

    "transfer" trains on the rows `train`, which pooling was fitted on. "within" is cross-validated among the rows
    `test`, which pooling was not fitted on. The site may be unpredictable from the features of the first and still
    predictable from those of the second.

    Args:
      features: (N, F) frozen features. Each probe standardises them on its own training rows.
      site: (N,) site indices, known for all rows in `train` and `test`.
      subject: (N,) identifiers. Cross-validation never divides the rows of one subject.
      train, test: row indices. No subject is in both.
      config: settings of the probes.
      num_sites: number of classes.
      within: whether to run the second design, which takes most of the time.
      probes: which probes to fit.

    Returns:
      Scores of logistic regression, the adversary of Lokhande et al. 2022 and gradient-boosted trees. The list is empty
      if `train` or `test` has fewer than two sites.

    Raises:
      ValueError: features of these rows are not finite.
    """
    for rows in (train, test):
        check_finite("features", features[rows], [f"row {row}" for row in rows])
    if min(len(np.unique(site[rows])) for rows in (train, test)) < 2:
        return []
    inside = test[of_larger_sites(site[test], subject[test])]
    folds = subject_folds(site[inside], subject[inside], config.probe_folds) if within else []
    scores = []
    for name in track(probes, "Probing for the site", unit="probe"):
        probe = _probe(name, config, num_sites)
        transferred = probe(features[train], site[train], features[test])
        scores.append(_score(name, "transfer", site[test], subject[test], transferred, config))
        if folds:
            validated = cross_validated(probe, features[inside], site[inside], folds, num_sites)
            scores.append(_score(name, "within", site[inside], subject[inside], validated, config))
    return scores


def strongest(scores: list[ProbeScore]) -> ProbeScore:
    """Returns the score with the highest balanced accuracy."""
    return max(scores, key=lambda score: score.balanced_accuracy)


def strongest_by_chance(
    of_library: Panel,
    of_adversary: Panel,
    site: np.ndarray,
    subject: np.ndarray,
    stratum: np.ndarray,
    splits: Sequence[np.ndarray],
    permutations: int,
) -> np.ndarray:
    """Returns the (permutations,) balanced accuracies of `strongest` after permuting sites among subjects.

    With few rows, the best of several probes exceeds 1 / sites even if the site is not predictable. These accuracies
    are the null distribution of the best probe.

    Args:
      of_library: function from (N,) sites to the scores of `probe_panel` for `LIBRARY_PROBES`. It is computed on all
        cores, for which it has to be picklable (`map_on_cores`).
      of_adversary: the same for `ADVERSARY`. It is computed meanwhile.
      site, subject: (N,) arguments of `probe_panel`.
      stratum: (N,) variable, such as a diagnosis, that is predictable from the features and whose frequency differs
        between sites. Permuting within its levels keeps it from counting as a scanner effect.
      splits: row indices of each split. Sites are permuted within a split. The sites of a subject's rows move together
        to another subject of the same stratum with as many rows (`eqpool.evaluate.permutations.permute_subjects`).
      permutations: number of permutations.
    """
    people, levels = (np.unique(of_row, return_inverse=True)[1] for of_row in (subject, stratum))
    all_shuffled = []
    for key in jax.random.split(jax.random.key(0), permutations):
        shuffled = site.copy()
        for part, rows in enumerate(splits):
            all_count = jnp.ones(len(rows), bool)
            order = permute_subjects(jax.random.fold_in(key, part), people[rows], all_count, levels[rows])
            shuffled[rows] = site[rows][order]
        all_shuffled.append(shuffled)
    library = map_on_cores(of_library, all_shuffled)
    adversary = [of_adversary(shuffled) for shuffled in all_shuffled]
    both = zip(track(library, "Probing shuffled sites", unit="permutation", total=permutations), adversary, strict=True)
    return np.array([strongest([*scores, *others]).balanced_accuracy for scores, others in both])


def site_floor_features(covariates: np.ndarray, target: np.ndarray, target_classes: tuple[str, ...]) -> np.ndarray:
    """Returns covariates and target as (N, F) float32 features.

    Site classification accuracy from these features alone is not due to the scanner.
    """
    encoded = np.eye(len(target_classes))[target] if target_classes else np.nan_to_num(target)[:, None]
    return np.concatenate([covariates, encoded], axis=1).astype(np.float32)


def _probe(name: str, config: EvaluateConfig, num_sites: int) -> Probe:
    if name != ADVERSARY:
        return library_probe(logistic_regression() if name == "logistic" else boosted_trees(), num_sites)

    def adversary(train_features: np.ndarray, train_site: np.ndarray, test_features: np.ndarray) -> np.ndarray:
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

    return adversary


def logistic_regression() -> Any:
    """Returns a logistic regression on standardised features that weighs all classes equally."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))


def library_probe(model: Any, num_sites: int) -> Probe:
    """Wraps a scikit-learn classifier with a deterministic fit as a probe with a single seed."""

    def probe(train_features: np.ndarray, train_site: np.ndarray, test_features: np.ndarray) -> np.ndarray:
        # With several threads, OpenMP's busy waiting on cores shared with XLA takes minutes instead of seconds.
        with threadpool_limits(limits=1):
            own = _class_scores(model.fit(train_features, train_site), test_features)
        # A site that is absent from the training rows is never predicted.
        scores = np.full((1, len(test_features), num_sites), min(0.0, own.min(initial=0.0) - 1), np.float32)
        scores[0][:, model.classes_] = own
        return scores

    return probe


def _class_scores(model: Any, features: np.ndarray) -> np.ndarray:
    """Returns (N, classes) probabilities, or the margins of a classifier that has no probabilities."""
    if hasattr(model, "predict_proba"):
        return model.predict_proba(features)
    margin = model.decision_function(features)
    return margin if margin.ndim == 2 else np.stack([-margin, margin], axis=1)


def cross_validated(
    probe: Probe, features: np.ndarray, site: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]], num_sites: int
) -> np.ndarray:
    """Returns the probe's (seeds, N, sites) scores. Each row is scored by a fit that did not include its fold."""
    # All folds have one size, so the adversary compiles once. `np.resize` repeats test rows, and the copies are cut.
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
    """Returns the first `size` rows, or as many rows that begin with the first of each site if a site would be lost."""
    _, first = np.unique(site[rows], return_index=True)
    if first.max() < size:
        return rows[:size]
    return np.concatenate([rows[first], np.delete(rows, first)])[:size]


def _score(
    name: str, design: str, site: np.ndarray, subject: np.ndarray, scores: np.ndarray, config: EvaluateConfig
) -> ProbeScore:
    check_finite(f"the score of the probe {name!r}", np.moveaxis(scores, 1, 0))  # argmax would treat NaN as a site
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
