"""Methods that `experiments.known_truth_tables` compares. Each is fitted on training people alone."""

import sys

sys.path.insert(0, "/tmp/w22cal")
from collections.abc import Callable

import numpy as np
from combat import combat_apply, combat_fit

from eqpool.data.tables.calibration import SiteCalibration
from experiments.known_truth_pairs import Pairs, site_names, training_rows

Harmonise = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # features, pipelines, covariates of rows


def _raw(pairs: Pairs, train: np.ndarray) -> Harmonise:
    return lambda features, pipeline, covariates: features


def _calibrated(**options) -> Callable[[Pairs, np.ndarray], Harmonise]:
    def fit(pairs: Pairs, train: np.ndarray) -> Harmonise:
        features, covariates = training_rows(pairs, train), pairs.covariates[train]
        fitted = SiteCalibration.fit(features, site_names(pairs.pipeline[train]), covariates, **options)
        return lambda rows, pipeline, _: fitted.apply(rows, site_names(pipeline)).astype(np.float64)

    return fit


def _combat(at_apply: bool) -> Callable[[Pairs, np.ndarray], Harmonise]:
    def fit(pairs: Pairs, train: np.ndarray) -> Harmonise:
        f = combat_fit(training_rows(pairs, train), pairs.pipeline[train], pairs.covariates[train])
        return lambda rows, pipeline, cov: combat_apply(f, rows, pipeline, cov if at_apply else None)

    return fit


METHODS: dict[str, Callable[[Pairs, np.ndarray], Harmonise]] = {
    "raw": _raw,
    "location": _calibrated(method="location"),
    "combat": _combat(True),
    "combat-nc": _combat(False),
    "location_scale": _calibrated(method="location_scale"),
    "eqpool": _calibrated(),
    "dir": _calibrated(method="covariance", prior_rows=1e9),
    "c8": _calibrated(method="covariance", prior_rows=500),
    "c4": _calibrated(method="covariance", prior_rows=250),
}
