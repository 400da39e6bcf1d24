"""Predicts the site from features by four probes, and age and labels by models chosen inside the training rows."""

import warnings
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import make_scorer, recall_score
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from eqpool.data.tables.splines import CovariateDesign

SITE_PROBES = ("logistic", "svm", "mlp", "forest")
_AGE_MACHINES = ((10.0, 0.1), (10.0, 0.4), (30.0, 0.1), (30.0, 0.4), (100.0, 0.1))  # C, and gamma times F


def site_probe(name: str) -> Any:
    """Returns an unfitted classifier of the site."""
    models = {
        "logistic": LogisticRegression(C=0.1, max_iter=500, class_weight="balanced"),
        "svm": SVC(C=3.0, class_weight="balanced"),
        "mlp": MLPClassifier((64,), max_iter=150, alpha=1e-2, random_state=0),
        "forest": RandomForestClassifier(
            200, class_weight="balanced_subsample", min_samples_leaf=2, random_state=0, n_jobs=1
        ),
    }
    return models[name] if name == "forest" else make_pipeline(StandardScaler(), models[name])


def without_covariates(features: np.ndarray, covariates: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Returns the (N, F) residuals of a regression on splines of age and on sex, fitted on the training rows."""
    columns = CovariateDesign.fit(covariates[train]).apply(covariates)
    columns = np.column_stack([np.ones(len(columns)), columns])
    return features - columns @ np.linalg.lstsq(columns[train], features[train], rcond=None)[0]


def told_sites(residual: np.ndarray, site: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Predicts the site of the held-out rows with each probe, trained on the training rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return {
            name: site_probe(name).fit(residual[train], site[train]).predict(residual[test]) for name in SITE_PROBES
        }


def told_age(features: np.ndarray, age: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predicts the held-out ages with ridge regression or a support vector machine.

    Cross-validation inside the training rows chooses the model.
    """
    inner = KFold(3, shuffle=True, random_state=0)
    models = [
        make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 4, 13))),
        *(make_pipeline(StandardScaler(), SVR(C=c, gamma=scale / features.shape[1])) for c, scale in _AGE_MACHINES),
    ]
    errors = [
        np.mean(np.abs(cross_val_predict(model, features[train], age[train], cv=inner) - age[train]))
        for model in models
    ]
    return models[int(np.argmin(errors))].fit(features[train], age[train]).predict(features[test])


def told_label(features: np.ndarray, label: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predicts the held-out labels with logistic regression. The penalty is chosen inside the training rows."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, class_weight="balanced"))
    search = GridSearchCV(
        model,
        {"logisticregression__C": [0.001, 0.01, 0.1]},
        scoring=make_scorer(recall_score, average="macro"),
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
    )
    return search.fit(features[train], label[train]).predict(features[test])
