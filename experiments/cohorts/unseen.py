"""Evaluates sites that are left out of training, one at a time or in groups, with and without calibration."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from eqpool.estimator import EquivariantPooling, SiteCalibrator
from experiments.cohorts.cohort import Table, standardised
from experiments.cohorts.methods import combat
from experiments.cohorts.probes import told_age, told_label
from experiments.cohorts.protocol import PROBES_VERSION, Told, fingerprint
from experiments.runner import stored
from experiments.tables import table

_CONTROLS = 20  # rows that calibrate a new site. They are not scored.
_LINES = (
    "raw",
    f"ComBat, {_CONTROLS} controls",
    "ours, calibration alone, site never seen",
    f"ours, calibration alone, {_CONTROLS} controls",
    "ours, site never seen",
    f"ours, {_CONTROLS} controls",
)


def evaluate_unseen(
    table: Table, folder: pathlib.Path, groups: int, seed: int, epochs: int
) -> dict[str, dict[str, Any]]:
    """Returns the scores of each of `_LINES` over all scored rows, from models that were not trained on a row's site.

    ComBat is fitted on the training rows and the controls. Without controls it has no estimate for a new site.
    """
    parts, rows = [], []
    for train, calibration, test in unseen_splits(table, groups, _CONTROLS, seed):
        name = f"{fingerprint(table, train, epochs)}_told{PROBES_VERSION}.npz"
        compute = functools.partial(_told, table, train, calibration, test, epochs)
        parts.append(stored(folder / table.name / "unseen" / name, compute))
        rows.append(test)
    order = np.concatenate(rows)
    return {
        line: _scores(table, order, {what: _joined(parts, f"{line}/{what}") for what in ("age", *table.labels)})
        for line in _LINES
    }


def unseen_splits(
    table: Table, groups: int, controls: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (training rows, rows to calibrate on, rows to score) of each left-out site or group of sites.

    If `groups` is 0, one site is left out at a time. Sites with fewer than 2 * `controls` rows are only trained on.
    """
    large = np.isin(table.site, np.flatnonzero(np.bincount(table.site) >= 2 * controls))
    everyone = np.arange(len(table.site))
    splitter = GroupKFold(groups) if groups else LeaveOneGroupOut()
    generator = np.random.default_rng(seed)
    for _, left_out in splitter.split(everyone[large], groups=table.site[large]):
        held = everyone[large][left_out]
        first = [
            generator.permutation(held[table.site[held] == site])[:controls] for site in np.unique(table.site[held])
        ]
        calibration = np.sort(np.concatenate(first))
        yield np.setdiff1d(everyone, held), calibration, np.setdiff1d(held, calibration)


def _told(table: Table, train: np.ndarray, calibration: np.ndarray, test: np.ndarray, epochs: int) -> Told:
    inputs = standardised(table, train)
    lines = [inputs, _with_combat(table, inputs, train, calibration)]
    for estimator in (SiteCalibrator(), EquivariantPooling(epochs=epochs)):
        lines += _with_estimator(estimator, table, inputs, train, calibration, test)
    told: Told = {}
    for line, features in zip(_LINES, lines, strict=True):
        told[f"{line}/age"] = told_age(features, table.covariates[:, 0], train, test)
        told |= {f"{line}/{name}": told_label(features, label, train, test) for name, label in table.labels.items()}
    return told


def _with_combat(table: Table, inputs: np.ndarray, train: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    return combat(table, inputs, np.concatenate([train, calibration]))


def _with_estimator(
    estimator: Any, table: Table, inputs: np.ndarray, train: np.ndarray, calibration: np.ndarray, test: np.ndarray
) -> list[np.ndarray]:
    """Returns the features with unknown sites of the tested rows, and with sites that were calibrated."""
    site = np.array(table.site_names)[table.site]
    diagnosis = table.labels["dx"][train] if "dx" in table.labels else None
    estimator.fit(inputs[train], diagnosis, site=site[train], covariates=table.covariates[train])
    apply = estimator.transform if isinstance(estimator, SiteCalibrator) else estimator.harmonise
    unseen, calibrated = inputs.copy(), inputs.copy()
    unseen[train] = calibrated[train] = apply(inputs[train], site[train])
    unseen[test] = apply(inputs[test])
    for name in np.unique(site[calibration]):
        here = calibration[site[calibration] == name]
        estimator = estimator.calibrate(inputs[here], name, table.covariates[here])
    apply = estimator.transform if isinstance(estimator, SiteCalibrator) else estimator.harmonise
    calibrated[test] = apply(inputs[test], site[test])
    return [unseen, calibrated]


def _joined(parts: list[Told], key: str) -> np.ndarray:
    return np.concatenate([part[key] for part in parts])


def _scores(table: Table, rows: np.ndarray, told: Told) -> dict[str, Any]:
    age = table.covariates[rows, 0]
    scores = {"age_mae": float(np.abs(told["age"] - age).mean()), "age_r2": float(r2_score(age, told["age"]))}
    for name, label in table.labels.items():
        scores[f"{name}_balanced_accuracy"] = float(balanced_accuracy_score(label[rows], told[name]))
    return scores | {"rows": len(rows)}


def describe_unseen(scores: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of a Markdown table."""
    rows = []
    for line, values in scores.items():
        labels = (values.get(f"{name}_balanced_accuracy") for name in ("sex", "dx"))
        cells = ["" if value is None else f"{value:.3f}" for value in labels]
        rows.append([line, f"{values['age_mae']:.2f}", f"{values['age_r2']:.2f}", *cells])
    yield from table(["features", "age MAE", "R2", "sex", "dx"], rows)
