"""Selects the shrinkage of scanners' covariances, the only setting of our method that is chosen inside a fold."""

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from eqpool.data.tables.calibration import SiteCalibration
from experiments.cohorts.cohort import Table
from experiments.cohorts.probes import site_probe, without_covariates

_PRIOR_ROWS_A_FEATURE = (0.6, 1.2, 2.4)
_WINDOW = 0.02  # relative to the best age error


def select_prior_rows(table: Table, inputs: np.ndarray, rows: np.ndarray) -> float:
    """Returns the setting with the lowest site accuracy (support vector probe) within 2% of the best age error.

    This is the selection rule of Lokhande et al. 2022. The scores come from three-fold cross-validation inside the
    training rows `rows`. Other rows are not used.
    """
    tried = [(_scores(table, inputs, rows, a * inputs.shape[1]), a * inputs.shape[1]) for a in _PRIOR_ROWS_A_FEATURE]
    best = min(error for (error, _), _ in tried)
    return min((site, prior) for (error, site), prior in tried if error <= (1 + _WINDOW) * best)[1]


def _scores(table: Table, inputs: np.ndarray, rows: np.ndarray, prior_rows: float) -> tuple[float, float]:
    """Returns the mean absolute error of age and the balanced accuracy of the site."""
    site, age = table.site.astype(str), table.covariates[:, 0]
    errors, told, true = [], [], []
    for inner, held_out in StratifiedKFold(3, shuffle=True, random_state=0).split(rows, table.site[rows]):
        train, test = rows[inner], rows[held_out]
        calibration = SiteCalibration.fit(inputs[train], site[train], table.covariates[train], prior_rows=prior_rows)
        features = calibration.apply(inputs, site).astype(np.float64)
        age_model = make_pipeline(StandardScaler(), SVR(C=30.0, gamma=0.2 / features.shape[1]))
        errors.append(np.abs(age_model.fit(features[train], age[train]).predict(features[test]) - age[test]))
        residual = without_covariates(features, table.covariates, train)
        train, test = train[table.probed[train]], test[table.probed[test]]
        told.append(site_probe("svm").fit(residual[train], table.site[train]).predict(residual[test]))
        true.append(table.site[test])
    return float(np.concatenate(errors).mean()), float(
        balanced_accuracy_score(np.concatenate(true), np.concatenate(told))
    )
