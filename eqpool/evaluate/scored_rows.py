"""The rows of a cohort on which a scorecard is made."""

import dataclasses
from functools import cached_property

import numpy as np

from eqpool.evaluate.probes import site_floor_features

MOST_ROWS = 1000  # of a split; more are drawn by subject, so that time and memory do not grow with the cohort


@dataclasses.dataclass(frozen=True)
class ScoredRows:
    """Who the N scored rows are.

    Attributes:
      site: (N,) int, -1 if unknown.
      covariates: (N, C) float64. C may be 0.
      target: (N,) int class, -1 if unknown. If `target_classes` is empty, (N,) float, NaN if unknown.
      target_classes: names of the classes, empty for a numeric target.
      subject: (N,) subject of each row.
      is_training: (N,) bool, true for training rows. All others are held out.
      covariate_name, target_name: names of the first covariate and of the target, "" without one.
      reference: index of the site whose rows stay as they are because the others take its look, -1 without one.
      reference_name: name of that site, "" without one.
    """

    site: np.ndarray
    covariates: np.ndarray
    target: np.ndarray
    target_classes: tuple[str, ...]
    subject: np.ndarray
    is_training: np.ndarray
    covariate_name: str
    target_name: str
    reference: int = -1
    reference_name: str = ""

    @cached_property
    def train(self) -> np.ndarray:
        """The indices of the training rows."""
        return np.flatnonzero(self.is_training)

    @cached_property
    def test(self) -> np.ndarray:
        """The indices of the held-out rows."""
        return np.flatnonzero(~self.is_training)

    @cached_property
    def target_known(self) -> np.ndarray:
        """Which rows have a known target, (N,) bool."""
        return self.target >= 0 if self.target_classes else np.isfinite(self.target)

    @property
    def is_changed(self) -> np.ndarray:
        """Which rows are of another site than the reference, or of any without one, (N,) bool."""
        return self.site != self.reference if self.reference >= 0 else np.ones(len(self.site), bool)

    @property
    def scores_covariate(self) -> bool:
        """Whether there is a first covariate with more than two values, whose prediction has an error in its units."""
        return bool(self.covariate_name) and len(np.unique(self.covariates[:, 0])) > 2

    @property
    def scores_target(self) -> bool:
        """Whether training and held-out rows have at least two values of the target."""
        known = self.target_known
        return all(len(np.unique(self.target[rows][known[rows]])) > 1 for rows in (self.train, self.test))

    def pairs_within_sites(self) -> np.ndarray:
        """Returns which pairs of the M held-out rows are of two subjects of one site but the reference, (M, M) bool."""
        site, subject = self.site[self.test], self.subject[self.test]
        used = (site >= 0) & self.is_changed[self.test]
        alike = (site[:, None] == site[None]) & (subject[:, None] != subject[None])
        return alike & used[:, None] & used[None]

    def floor_features(self) -> np.ndarray:
        """Returns covariates and target as (N, F) features. An unknown target counts as 0 or the first class."""
        if not self.target_known.any():
            return self.covariates.astype(np.float32)
        target = np.where(self.target_known, self.target, 0).astype(np.int64 if self.target_classes else np.float64)
        return site_floor_features(self.covariates, target, self.target_classes)


def choose_rows(split: np.ndarray, subject: np.ndarray, seed: int, most: int = MOST_ROWS) -> np.ndarray:
    """Returns the sorted indices of the training and test rows to score, at most `most` of each split.

    If a split has more rows, they are those of subjects drawn at random.
    """
    chosen = []
    for name in ("train", "test"):
        rows = np.flatnonzero(split == name)
        if len(rows) > most:
            people, number = np.unique(subject[rows], return_inverse=True)
            place = np.random.default_rng(seed).permutation(len(people))[number]
            rows = rows[np.argsort(place, kind="stable")[:most]]
        chosen.append(rows)
    return np.sort(np.concatenate(chosen))
