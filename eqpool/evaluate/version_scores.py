"""The scores of one version of a cohort's rows, as functions of the held-out rows' weights."""

from typing import NamedTuple

import numpy as np

from eqpool.evaluate.components import Components
from eqpool.evaluate.readout import read_classes, read_covariate
from eqpool.evaluate.scored_rows import ScoredRows
from eqpool.evaluate.site_probes import SitePrediction, predict_sites, strongest
from eqpool.evaluate.weighted import Score, error_within_sites, mean_of, recall_of

Scores = dict[str, Score]


class VersionScores(NamedTuple):
    """The scores of one version.

    Attributes:
      scores: scores by name, each a function of (B, M) weights of the held-out rows.
      names: the strongest probe of the site, "svm, within", by name.
    """

    scores: Scores
    names: dict[str, str]


def score_version(
    rows: ScoredRows, values: np.ndarray, truth: np.ndarray | None, components: int, num_folds: int
) -> VersionScores:
    """Scores the held-out rows of one version.

    Args:
      rows: who the N rows are.
      values: (N, F) features of the version.
      truth: (N, F) features without any scanner, None if unknown.
      components: most principal components that are read, 0 for the columns themselves.
      num_folds: folds of the cross-validated probes.
    """
    train, test = rows.train, rows.test
    across = Components.fit(values[train], min(components, len(train) // 2))
    predictions = predict_sites(
        values[train],
        rows.site[train],
        values[test],
        rows.site[test],
        rows.subject[test],
        across=across,
        components=components,
        num_folds=num_folds,
    )
    scores, names = site_scores(predictions)
    features = across.apply(values[train]), across.apply(values[test])
    if rows.covariate_name:
        age = rows.covariates[:, 0]
        scores |= covariate_scores(read_covariate(features[0], age[train], features[1]) - age[test], rows.site[test])
    if rows.scores_target:
        scores |= _target_scores(rows, *features)
    if truth is not None:
        squares = np.mean((values[test].astype(np.float64) - truth[test]) ** 2, axis=1)
        scores["error_to_truth"] = mean_of(np.sqrt(squares))
    return VersionScores(scores, names)


def site_scores(predictions: list[SitePrediction]) -> tuple[Scores, dict[str, str]]:
    """Returns the accuracy of the strongest probe of all and of each design, and which it was."""
    scores: Scores = {}
    names = {}
    for name, design in (("site", ""), ("site_transfer", "transfer"), ("site_within", "within")):
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
