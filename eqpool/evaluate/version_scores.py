"""The scores of one version of a cohort's rows, as functions of the held-out rows' weights."""

from typing import NamedTuple

import numpy as np

from eqpool.evaluate.components import Components
from eqpool.evaluate.readout import read_classes, read_covariate
from eqpool.evaluate.scored_rows import ScoredRows
from eqpool.evaluate.site_probes import SiteFeatures, SitePrediction, strongest
from eqpool.evaluate.site_shuffles import shuffled_accuracies
from eqpool.evaluate.weighted import Score, correlation_of_pairs, error_within_sites, mean_of, recall_of

Scores = dict[str, Score]
SITE_DESIGNS = {"site": "", "site_transfer": "transfer", "site_within": "within"}


class VersionScores(NamedTuple):
    """The scores of one version.

    Attributes:
      scores: scores by name, each a function of (B, M) weights of the held-out rows.
      names: the strongest probe of the site, "svm, within", by name.
      shuffled: (P,) accuracies of the strongest probe on shuffled sites, by the name of the score.
    """

    scores: Scores
    names: dict[str, str]
    shuffled: dict[str, np.ndarray]


def score_version(
    rows: ScoredRows,
    values: np.ndarray,
    raw: np.ndarray,
    truth: np.ndarray | None,
    *,
    components: int,
    num_folds: int,
    permutations: int = 0,
) -> VersionScores:
    """Scores the held-out rows of one version.

    Args:
      rows: who the N rows are.
      values: (N, F) features of the version.
      raw: (N, F) features of the raw input.
      truth: (N, F) features of what the rows should be, None if unknown.
      components: most principal components that are read, 0 for the columns themselves.
      num_folds: folds of the cross-validated probes.
      permutations: how often the sites are shuffled.
    """
    train, test = rows.train, rows.test
    across = Components.fit_few(values[train], components)
    probed = SiteFeatures.of(values[train], values[test], rows.site[test], rows.subject[test], across, components)
    scores, names = site_scores(probed.predict(rows.site[train], rows.site[test], num_folds))
    shuffled = shuffled_accuracies(rows, probed, SITE_DESIGNS, num_folds, permutations) if permutations else {}
    features = probed.train, probed.test
    if rows.scores_covariate:
        age = rows.covariates[:, 0]
        scores |= covariate_scores(read_covariate(features[0], age[train], features[1]) - age[test], rows.site[test])
    if rows.scores_target:
        scores |= _target_scores(rows, *features)
    return VersionScores(scores | _image_scores(rows, values, raw, truth), names, shuffled)


def _image_scores(rows: ScoredRows, values: np.ndarray, raw: np.ndarray, truth: np.ndarray | None) -> Scores:
    """Returns the scores that compare features: the error to the truth, and the correlations of pairwise distances."""
    test, pairs = rows.test, rows.pairs_within_sites()
    distances = pairwise_distances(values[test])
    scores = {"pairwise_correlation_to_raw": correlation_of_pairs(distances, pairwise_distances(raw[test]), pairs)}
    if truth is None:
        return scores
    squares = np.mean((values[test].astype(np.float64) - truth[test]) ** 2, axis=1)
    error = np.where(rows.is_changed[test], np.sqrt(squares), np.nan)
    to_truth = correlation_of_pairs(distances, pairwise_distances(truth[test]), pairs)
    return scores | {"error_to_truth": mean_of(error), "pairwise_correlation_to_truth": to_truth}


def pairwise_distances(values: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distances between (M, F) rows, (M, M) float64."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    squares = np.square(centred).sum(axis=1)
    return np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * centred @ centred.T, 0))


def site_scores(predictions: list[SitePrediction]) -> tuple[Scores, dict[str, str]]:
    """Returns the accuracy of the strongest probe of all and of each design, and which it was."""
    scores: Scores = {}
    names = {}
    for name, design in SITE_DESIGNS.items():
        if any(design in ("", one.design) for one in predictions):
            best = strongest(predictions, design)
            scores[name] = recall_of(best.truth, best.predicted)
            names[f"{name}_name"] = f"{best.probe}, {best.design}"
    return scores, names


def covariate_scores(error: np.ndarray, site: np.ndarray) -> Scores:
    """Returns the mean absolute error of (M,) errors, overall and within sites."""
    within = error_within_sites(error, site)
    return {"covariate_mae": mean_of(np.abs(error)), "covariate_mae_within_sites": within}


def _target_scores(rows: ScoredRows, train_features: np.ndarray, test_features: np.ndarray) -> Scores:
    """Returns the balanced accuracy of classes, or the mean absolute error of a numeric target."""
    known = rows.target_known
    here = known[rows.train]
    fitted, target = train_features[here], rows.target[rows.train][here]
    if rows.target_classes:
        predicted = read_classes(fitted, target, rows.subject[rows.train][here], test_features)
        return {"target_balanced_accuracy": recall_of(rows.target[rows.test], predicted)}
    error = read_covariate(fitted, target, test_features) - rows.target[rows.test]
    return {"target_mae": mean_of(np.abs(error))}
