"""Folds of a cross-validation that never divide the rows of a subject. This module never imports jax."""

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold


def of_larger_sites(site: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Returns (N,) bool, true for rows of sites with at least two subjects, so that one can be held out."""
    larger = [label for label in np.unique(site) if len(np.unique(subject[site == label])) > 1]
    return np.isin(site, larger)


def subject_folds(site: np.ndarray, subject: np.ndarray, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (training rows, held-out rows) of each fold, without a subject on both sides.

    The list is empty if there are fewer than two sites or a site has a single subject.
    """
    subjects_a_site = [len(np.unique(subject[site == label])) for label in np.unique(site)]
    count = min([count, *subjects_a_site])
    if count < 2 or len(subjects_a_site) < 2:
        return []
    return list(StratifiedGroupKFold(count, shuffle=True, random_state=0).split(site, site, subject))
