"""Methods that `experiments.known_truth_tables` compares. Each is fitted on training people alone."""

import functools
from collections.abc import Callable

import numpy as np

from eqpool.data.site_effects.combat import Combat
from eqpool.data.tables.calibration import SiteCalibration
from experiments.known_truth_pairs import Pairs, site_names, training_rows

Harmonise = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # features, pipelines, covariates of rows
Fit = Callable[[Pairs, np.ndarray], Harmonise]


def _raw(pairs: Pairs, train: np.ndarray) -> Harmonise:
    return lambda features, pipeline, covariates: features


def _calibrated(pairs: Pairs, train: np.ndarray, *, method: str) -> Harmonise:
    features, covariates = training_rows(pairs, train), pairs.covariates[train]
    fitted = SiteCalibration.fit(features, site_names(pairs.pipeline[train]), covariates, method=method)
    return lambda rows, pipeline, _: fitted.apply(rows, site_names(pipeline)).astype(np.float64)


def _combat(pairs: Pairs, train: np.ndarray, *, with_covariates: bool) -> Harmonise:
    features, covariates = training_rows(pairs, train), pairs.covariates[train]
    fitted = Combat.fit(features, site_names(pairs.pipeline[train]), covariates)
    return lambda rows, pipeline, own: fitted.apply(rows, site_names(pipeline), own if with_covariates else None)


METHODS: dict[str, Fit] = {
    "raw": _raw,
    "location": functools.partial(_calibrated, method="location"),
    "combat": functools.partial(_combat, with_covariates=True),
    "combat-nc": functools.partial(_combat, with_covariates=False),
    "location_scale": functools.partial(_calibrated, method="location_scale"),
    "covariance": functools.partial(_calibrated, method="covariance"),
    "eqpool (auto)": functools.partial(_calibrated, method="auto"),
}
