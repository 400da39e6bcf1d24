"""Predicts the site from what is handed back, by the strongest of three probes in two designs."""

from typing import NamedTuple

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from eqpool.evaluate.components import Components
from eqpool.evaluate.folds import of_larger_sites, subject_folds
from eqpool.evaluate.probes import (
    Probe,
    cross_validated,
    library_probe,
    logistic_regression,
)
from eqpool.evaluate.weighted import recall_of

TREES = 100  # most trees of the boosted probe; each of its rounds grows one tree for each site
BINS = 32  # of a feature; scikit-learn computes their weighted quantiles slowly, at 255 for longer than the trees take


class SitePrediction(NamedTuple):
    """The sites that one probe predicts for the held-out rows.

    Attributes:
      probe: "logistic", "svm" (RBF kernel) or "boosted_trees".
      design: "transfer", fitted on the training rows, or "within", cross-validated among the held-out rows.
      truth: (M,) int, the rows' sites, -1 where the row is not scored.
      predicted: (M,) int, the predicted sites.
    """

    probe: str
    design: str
    truth: np.ndarray
    predicted: np.ndarray

    @property
    def accuracy(self) -> float:
        """The balanced accuracy."""
        return float(recall_of(self.truth, self.predicted)(np.ones((1, len(self.truth))))[0])


def predict_sites(
    train: np.ndarray,
    train_site: np.ndarray,
    test: np.ndarray,
    test_site: np.ndarray,
    subject: np.ndarray,
    *,
    across: Components,
    components: int,
    num_folds: int,
) -> list[SitePrediction]:
    """Predicts the sites of the held-out rows by every probe in both designs.

    A correction can hide the site from a probe that is fitted on the rows that the correction was fitted on, and leave
    it in other rows. Each design therefore has principal components of its own rows, as those of the training rows may
    lack what the correction removed from these alone.

    Args:
      train: (N, F) training rows, with `train_site` (N,), -1 where unknown.
      test: (M, F) held-out rows, with `test_site` (M,), and `subject` (M,), whose rows are in one fold.
      across: principal components of the training rows, which the probes fitted on these rows read.
      components: most principal components of the held-out rows that cross-validated probes read, at most half as many
        as there are rows. 0 for the columns themselves.
      num_folds: folds of the cross-validation.

    Returns:
      Six predictions, three if cross-validation is not possible, and none if either set of rows has fewer than two
      sites.
    """
    known, held_out = train_site >= 0, test_site >= 0
    if min(len(np.unique(site)) for site in (train_site[known], test_site[held_out])) < 2:
        return []
    num_sites = int(max(train_site.max(), test_site.max())) + 1
    inside = np.flatnonzero(held_out)[of_larger_sites(test_site[held_out], subject[held_out])]
    folds = subject_folds(test_site[inside], subject[inside], num_folds)
    transfer, transferred = across.apply(train[known]), across.apply(test)
    own = Components.fit(test[inside], min(components, len(inside) // 2)).apply(test[inside]) if folds else None
    found = []
    for name, probe in _probes(num_sites).items():
        predicted = probe(transfer, train_site[known], transferred)[0].argmax(axis=1)
        found.append(SitePrediction(name, "transfer", test_site, predicted))
        if own is not None:
            scores = cross_validated(probe, own, test_site[inside], folds, num_sites)
            found.append(_among(name, inside, test_site, scores[0].argmax(axis=1)))
    return found


def strongest(predictions: list[SitePrediction], design: str = "") -> SitePrediction:
    """Returns the prediction with the highest balanced accuracy, of one design if it is named."""
    return max((one for one in predictions if design in ("", one.design)), key=lambda one: one.accuracy)


def _among(name: str, inside: np.ndarray, site: np.ndarray, predicted: np.ndarray) -> SitePrediction:
    truth, everyone = np.full(len(site), -1), np.full(len(site), -1)
    truth[inside], everyone[inside] = site[inside], predicted
    return SitePrediction(name, "within", truth, everyone)


def _probes(num_sites: int) -> dict[str, Probe]:
    rounds = max(10, TREES // (1 if num_sites == 2 else num_sites))
    trees = HistGradientBoostingClassifier(
        max_iter=rounds, max_bins=BINS, random_state=0, class_weight="balanced", early_stopping=False
    )
    models = {
        "logistic": logistic_regression(),
        "svm": make_pipeline(StandardScaler(), SVC(class_weight="balanced")),
        "boosted_trees": trees,
    }
    return {name: library_probe(model, num_sites) for name, model in models.items()}
