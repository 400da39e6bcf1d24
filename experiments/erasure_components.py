"""Erases the site from principal components of simulated volumes, by LEACE and by the form of eqpool.

A light companion of `erasure`: no network is trained. The latents are the first principal components of the training
volumes, on the unit sphere. The erasure is fitted on the training rows and read out on the test rows by logistic
regression (site, target) and ridge regression (age), all trained on the training rows.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eqpool.data.cohort import Cohort
from eqpool.data.site_effects.erasure import erase_site
from eqpool.data.site_effects.kept import kept_columns
from experiments.flags import count
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.splits import add_split_flags, measure_splits
from experiments.tables import Measured, mean_and_deviation, table

_MEASURES = {
    "site": ("site, logistic, balanced accuracy", 3),
    "age_mae": ("age MAE", 2),
    "age_r_squared": ("R^2 of age", 3),
    "target": ("target, balanced accuracy", 3),
}


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    add_split_flags(parser)
    parser.add_argument("--components", type=count, default=64, help="number of principal components")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Reads the latents of every split out, before and after each erasure."""
    components = options.components
    return measure_splits(options, lambda cohort: _of_split(cohort, components), components=components)


def _of_split(cohort: Cohort, components: int) -> Iterator[dict[str, Any]]:
    train = cohort.rows("train")
    latent, age = _latents(cohort, components), cohort.covariates[:, :1]
    age = (age - age[train].mean()) / age[train].std()
    kept = kept_columns(age, cohort.target, cohort.target_known, len(cohort.target_classes))
    yield {"erased": "nothing"} | _read_out(cohort, latent)
    for name, columns in (("LEACE, marginal", kept[:, :0]), ("conditional on age and target", kept)):
        erasure = erase_site(latent[train], cohort.site[train], columns[train])
        yield {"erased": name} | _read_out(cohort, erasure.apply(latent))


def _latents(cohort: Cohort, components: int) -> np.ndarray:
    """Returns the scores on the training volumes' principal components, divided by their norms, (N, components)."""
    assert cohort.volumes is not None
    voxels = np.stack([cohort.inputs[row][cohort.volumes.grid.mask] for row in range(len(cohort.site))])
    train = cohort.rows("train")
    centred = voxels.astype(np.float64) - voxels[train].mean(axis=0)
    _, vectors = np.linalg.eigh(centred[train] @ centred[train].T)
    directions = vectors[:, ::-1][:, :components].T @ centred[train]
    scores = centred @ (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    return scores / np.linalg.norm(scores, axis=1, keepdims=True)


def _read_out(cohort: Cohort, latent: np.ndarray) -> dict[str, float]:
    train, test, age = cohort.rows("train"), cohort.rows("test"), cohort.covariates[:, 0]

    def classified(labels: np.ndarray) -> float:
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000)).fit(latent[train], labels[train])
        return float(balanced_accuracy_score(labels[test], probe.predict(latent[test])))

    ages = RidgeCV(np.logspace(-4, 3, 20)).fit(latent[train], age[train]).predict(latent[test])
    return {
        "site": classified(cohort.site),
        "age_mae": float(mean_absolute_error(age[test], ages)),
        "age_r_squared": float(r2_score(age[test], ages)),
        "target": classified(cohort.target),
    }


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table, with a row for each erasure."""
    rows, splits = content["rows"], {row["split"] for row in content["rows"]}
    cells = []
    for erased in dict.fromkeys(row["erased"] for row in rows):
        own = [row for row in rows if row["erased"] == erased]
        values = [mean_and_deviation([row[name] for row in own], digits) for name, (_, digits) in _MEASURES.items()]
        cells.append([erased, *values])
    return "\n".join(
        [
            f"SIMULATED data, configs/{content['config']}.py. {written_by(experiment.name, content)}",
            f"{content['components']} components. Mean (standard deviation) over {len(splits)} splits.",
            "",
            *table(["erased", *(label for label, _ in _MEASURES.values())], cells),
        ]
    )
