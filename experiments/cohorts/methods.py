"""Fits each method on a fold's training rows and computes its features of all rows."""

from typing import Any

import numpy as np

from eqpool.config import default_config
from eqpool.config.check import from_config_dict
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.site_effects.combat import Combat
from eqpool.data.splits import assign_splits
from eqpool.data.tables.inputs import TableInputs
from eqpool.engine.session import Session
from eqpool.estimator import EquivariantPooling, SiteCalibrator
from eqpool.methods.latent import train_latents
from experiments.cohorts.cohort import Table, standardised

Representations = dict[str, np.ndarray]  # name -> (N, F') features of all rows


def represent(method: str, table: Table, train_rows: np.ndarray, epochs: int) -> tuple[Representations, dict[str, Any]]:
    """Returns the representations of all rows by a method (raw, combat, calibrated, ours, or a baseline).

    The settings that the method chose are returned as well. The method is fitted on the training rows alone. The name
    of a representation ends in " *" if its columns have the same meaning in every fold. Features do, but the axes of a
    latent do not.
    """
    inputs = standardised(table, train_rows)
    if method == "raw":
        return {"raw *": inputs}, {}
    if method == "combat":
        return {"ComBat *": combat(table, inputs, train_rows)}, {}
    if method == "calibrated":
        return _calibrated(table, inputs, train_rows)
    if method == "ours":
        return _ours(table, inputs, train_rows, epochs)
    return {f"{method}, Phi": _baseline(method, table, inputs, train_rows, epochs)}, {}


def _target_of(table: Table) -> str:
    """Returns the target of a baseline's network: the diagnosis if the table has one, else sex."""
    return "dx" if "dx" in table.labels else "sex"


def combat(table: Table, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Fits ComBat on the rows, preserving age, sex and diagnosis, and applies it to all rows.

    As in neuroCombat, the fitted rows are scaled about what their covariates predict, and other rows about the mean
    fitted row. Rows of a site that was not fitted stay raw.
    """
    site = np.array(table.site_names)[table.site]
    terms = np.column_stack([table.covariates[:, :1], *table.labels.values()])
    fitted = Combat.fit(inputs[rows], site[rows], terms[rows])
    harmonised = fitted.apply(inputs, site)
    harmonised[rows] = fitted.apply(inputs[rows], site[rows], terms[rows])
    return harmonised


def _calibrated(table: Table, inputs: np.ndarray, rows: np.ndarray) -> tuple[Representations, dict[str, Any]]:
    """Computes the features of the site calibration alone."""
    calibrator = SiteCalibrator()
    site, unknown = _fit(calibrator, table, inputs, rows), inputs.copy()
    unknown[rows] = calibrator.transform(inputs[rows], site[rows])
    rest = np.setdiff1d(np.arange(len(inputs)), rows)
    unknown[rest] = calibrator.transform(inputs[rest])
    features = {
        "ours, calibration alone *": calibrator.transform(inputs, site),
        "ours, calibration alone, site not given *": unknown,
    }
    return features, {"covariance": _covariance(calibrator)}


def _covariance(estimator: SiteCalibrator | EquivariantPooling) -> str:
    """Returns in words how far the calibration corrects sites' covariances."""
    assert estimator.calibration_ is not None
    return str(estimator.calibration_.describe()["covariance"])


def _fit(estimator: Any, table: Table, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Fits an estimator of eqpool on the rows and returns the names of all rows' sites."""
    site = np.array(table.site_names)[table.site]
    diagnosis = table.labels["dx"][rows] if "dx" in table.labels else None
    estimator.fit(inputs[rows], diagnosis, site=site[rows], covariates=table.covariates[rows])
    return site


def _ours(table: Table, inputs: np.ndarray, rows: np.ndarray, epochs: int) -> tuple[Representations, dict[str, Any]]:
    """Computes features that are equivariant to age and sex. The diagnosis, if the table has one, is the target."""
    pooling = EquivariantPooling(epochs=epochs)
    site, unknown = _fit(pooling, table, inputs, rows), inputs.copy()
    outputs = pooling.embed(inputs, site)
    unknown[rows] = pooling.harmonise(inputs[rows], site[rows])
    rest = np.setdiff1d(np.arange(len(inputs)), rows)
    unknown[rest] = pooling.harmonise(inputs[rest])
    features = {
        "ours, harmonised *": pooling.harmonise(inputs, site),
        "ours, site not given *": unknown,
        "ours, Phi": outputs["phi"],
        "ours, tau^-1 Phi": outputs["covariate_free"],
    }
    return features, {"covariance": _covariance(pooling)}


def _baseline(method: str, table: Table, inputs: np.ndarray, rows: np.ndarray, epochs: int) -> np.ndarray:
    cohort = _as_cohort(table, inputs, rows)
    config = default_config()
    config.method, config.devices = method, 1
    config.data.participants = table.name
    config.baseline.update(
        epochs=epochs, learning_rate=2e-3, prediction_weight=0.3, reconstruction_weight=1.0, site_weight=1.0,
        decay_every_epochs=max(1, epochs // 8), checkpoint_every_epochs=epochs,
    )  # fmt: skip
    session = Session.start(from_config_dict(config))
    return train_latents(session, cohort, Scaling.fit(cohort))[0].phi


def _as_cohort(table: Table, inputs: np.ndarray, rows: np.ndarray) -> Cohort:
    """Converts a table to a `Cohort`. Training rows are divided into train and validation, and the others are test."""
    target = _target_of(table)
    features = inputs.astype(np.float32)
    split = np.full(len(inputs), "test", dtype="<U10")
    strata = list(zip(table.site[rows].tolist(), table.labels[target][rows].tolist(), strict=True))
    split[rows] = assign_splits(rows.astype(str), strata, validation_fraction=0.1, test_fraction=0.0, seed=0)
    return Cohort(
        name=table.name,
        simulated=False,
        participant_id=np.arange(len(inputs)).astype(str),
        inputs=features,
        site=table.site,
        site_names=table.site_names,
        covariates=table.covariates[:, :1],
        covariate_names=("age",),
        target=table.labels[target].astype(np.int32),
        target_name=target,
        target_classes=("0", "1"),
        split=split,
        table=TableInputs(tuple(map(str, range(features.shape[1]))), features),
    )
