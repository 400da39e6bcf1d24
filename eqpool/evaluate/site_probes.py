"""Predicts the site from what is handed back, by the strongest of three probes in two designs."""

from typing import NamedTuple

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from eqpool.evaluate.boosted_trees import boosted_trees
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
BINS = 32  # of a feature


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


class SiteFeatures(NamedTuple):
    """What the probes read of the rows with a known site, in both designs, for any labelling of these rows.

    A correction can hide the site from a probe that is fitted on the rows that the correction was fitted on, and leave
    it in other rows. Each design therefore has principal components of its own rows, as those of the training rows may
    lack what the correction removed from these alone.

    Attributes:
      train: (N, K) features of the training rows for the design "transfer".
      test: (M, K) features of all held-out rows for the same design.
      own: (I, L) features of some held-out rows for the design "within".
      inside: (I,) indices of these rows. They are of sites with at least two subjects, so that one can be held out.
      subject: (M,) subject of each held-out row.
    """

    train: np.ndarray
    test: np.ndarray
    own: np.ndarray
    inside: np.ndarray
    subject: np.ndarray

    @classmethod
    def of(
        cls,
        train: np.ndarray,
        test: np.ndarray,
        test_site: np.ndarray,
        subject: np.ndarray,
        across: Components,
        components: int,
    ) -> "SiteFeatures":
        """Computes the features of training rows (N, F) and held-out rows (M, F); see `predict_sites`."""
        held_out = np.flatnonzero(test_site >= 0)
        inside = held_out[of_larger_sites(test_site[held_out], subject[held_out])]
        own = test[inside]
        if len(inside):
            own = Components.fit_few(own, components).apply(own)
        return cls(across.apply(train), across.apply(test), own, inside, subject)

    def predict(self, train_site: np.ndarray, test_site: np.ndarray, num_folds: int) -> list[SitePrediction]:
        """Predicts the sites of the held-out rows by every probe in both designs, as `predict_sites` does.

        Args:
          train_site: (N,) sites of the training rows, -1 where unknown.
          test_site: (M,) sites of the held-out rows, -1 where unknown.
          num_folds: folds of the cross-validation.
        """
        known, held_out = train_site >= 0, test_site >= 0
        if min(len(np.unique(site)) for site in (train_site[known], test_site[held_out])) < 2:
            return []
        num_sites = int(max(train_site.max(), test_site.max())) + 1
        inside = self.inside
        folds = subject_folds(test_site[inside], self.subject[inside], num_folds)
        found = []
        for name, probe in _probes(num_sites).items():
            predicted = probe(self.train[known], train_site[known], self.test)[0].argmax(axis=1)
            found.append(SitePrediction(name, "transfer", test_site, predicted))
            if folds:
                scores = cross_validated(probe, self.own, test_site[inside], folds, num_sites)
                found.append(_among(name, inside, test_site, scores[0].argmax(axis=1)))
        return found


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
    features = SiteFeatures.of(train, test, test_site, subject, across, components)
    return features.predict(train_site, test_site, num_folds)


def strongest(predictions: list[SitePrediction], design: str = "") -> SitePrediction:
    """Returns the prediction with the highest balanced accuracy, of one design if it is named."""
    return max((one for one in predictions if design in ("", one.design)), key=lambda one: one.accuracy)


def _among(name: str, inside: np.ndarray, site: np.ndarray, predicted: np.ndarray) -> SitePrediction:
    truth, everyone = np.full(len(site), -1), np.full(len(site), -1)
    truth[inside], everyone[inside] = site[inside], predicted
    return SitePrediction(name, "within", truth, everyone)


def _probes(num_sites: int) -> dict[str, Probe]:
    rounds = max(10, TREES // (1 if num_sites == 2 else num_sites))
    models = {
        "logistic": logistic_regression(),
        "svm": make_pipeline(StandardScaler(), SVC(class_weight="balanced")),
        "boosted_trees": boosted_trees(BINS, max_iter=rounds),
    }
    return {name: library_probe(model, num_sites) for name, model in models.items()}
