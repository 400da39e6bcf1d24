"""The corrections of `eqpool harmonise`, in one form: fitted on some rows of a table, applied to any."""

import dataclasses
import pathlib
import warnings
from typing import Any, Protocol

import numpy as np
import pandas as pd

from eqpool.data.site_effects.combat import Combat
from eqpool.data.tables.coding import UNKNOWN
from eqpool.data.tables.targets import target_columns
from eqpool.errors import InputError
from eqpool.estimator import EquivariantPooling, SiteCalibrator
from eqpool.estimator.design import examine_fit
from eqpool.estimator.fit_rows import FitRows
from eqpool.storage.files import write_arrays


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a table of N rows, read.

    Attributes:
      features: N rows of float64 features, NaN where missing.
      site: (N,) names, "" where unknown.
      covariates, covariate_names: (N, C) float64 and their names. C may be 0.
      first_covariate: name of the first covariate, "" without covariates.
      target: (N,) classes, -1 where unknown, or numbers, NaN where unknown.
      target_classes: names of the classes, empty for a number or without a target.
      target_name: column of the target, "" without one.
      person: (N,) names of people.
      fit_on: (N,) bool, rows to learn from. None for all.
      notes: what reading changed, in sentences.
    """

    features: pd.DataFrame
    site: np.ndarray
    covariates: np.ndarray
    covariate_names: tuple[str, ...]
    first_covariate: str
    target: np.ndarray
    target_classes: tuple[str, ...]
    target_name: str
    person: np.ndarray
    fit_on: np.ndarray | None
    notes: tuple[str, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """Returns the sorted names of the known sites."""
        return tuple(np.unique(self.site[self.site != UNKNOWN]).tolist())

    def filled(self, rows: np.ndarray) -> np.ndarray:
        """Returns (N, F) features with missing values replaced by the mean of some rows, 0 if all are missing."""
        values = self.features.to_numpy()
        return np.where(np.isfinite(values), values, _means(values[rows]))


class Correction(Protocol):
    """A fitted correction of a table."""

    @property
    def change_scale(self) -> float | None:
        """Returns the factor on the networks' change, None without networks."""

    def apply(self, features: pd.DataFrame, site: np.ndarray) -> pd.DataFrame:
        """Returns harmonised features of rows of these sites, (N,) names, "" where unknown."""

    def save(self, path: pathlib.Path) -> None:
        """Writes the correction to an .npz file."""


def fit_correction(method: str, columns: Columns, rows: np.ndarray, reference: str, seed: int) -> Correction:
    """Fits a correction on some rows.

    Args:
      method: "calibrate", "combat" or "ours".
      columns: the table.
      rows: indices of the rows to learn from.
      reference: site that stays as it is, "" for the average.
      seed: seed of the networks.

    Raises:
      InputError: the reference is no site of these rows, `fit_on` leaves no row, or the design is not identifiable.
    """
    if reference and reference not in columns.site:
        raise InputError(f"--reference={reference}: no such site, expected one of {', '.join(columns.sites)}")
    fit_on = None if columns.fit_on is None else columns.fit_on[rows]
    used = columns.site[rows] != UNKNOWN if fit_on is None else (columns.site[rows] != UNKNOWN) & fit_on
    if not used.any():
        raise InputError("--fit_on: none of these rows has a site, expected some to learn from")
    people = np.unique(columns.person[rows][used & (columns.site[rows] == reference)])
    if reference and len(people) < (2 if method == "combat" else 1):
        expected = "at least two for their variance" if method == "combat" else "some"
        raise InputError(f"--reference={reference}: {len(people)} people of it to learn from, expected {expected}")
    target_type = "auto" if not columns.target_name else "classes" if columns.target_classes else "number"
    features = columns.features.iloc[rows].reset_index(drop=True)
    target = pd.Series(_labels(columns)[rows], name=columns.target_name) if columns.target_name else None
    about: dict[str, Any] = {
        "site": columns.site[rows],
        "covariates": pd.DataFrame(columns.covariates[rows], columns=list(columns.covariate_names))
        if columns.covariate_names
        else None,
        "fit_on": fit_on,
        "subject": columns.person[rows],
    }
    if method == "combat":
        examine_fit(features, FitRows.read(len(rows), target, target_type=target_type, **about))
        return _CombatCorrection.fit(columns, rows, reference, fit_on)
    estimator: Any = (
        EquivariantPooling(reference=reference or None, target_type=target_type, random_state=seed)
        if method == "ours"
        else SiteCalibrator(reference=reference or None, target_type=target_type)
    )
    estimator.fit(features, target, **about)
    return _EstimatorCorrection(estimator, estimator.harmonise if method == "ours" else estimator.transform)


@dataclasses.dataclass(frozen=True)
class _EstimatorCorrection:
    estimator: Any
    harmonise: Any

    @property
    def change_scale(self) -> float | None:
        return getattr(self.estimator, "change_scale_", None)

    def apply(self, features: pd.DataFrame, site: np.ndarray) -> pd.DataFrame:
        return self.harmonise(features.reset_index(drop=True), site)

    def save(self, path: pathlib.Path) -> None:
        self.estimator.save(path)


@dataclasses.dataclass(frozen=True)
class _CombatCorrection:
    combat: Combat
    mean: np.ndarray
    change_scale: None = None

    @classmethod
    def fit(cls, columns: Columns, rows: np.ndarray, reference: str, fit_on: np.ndarray | None) -> "_CombatCorrection":
        target = None
        if columns.target_name:
            known = columns.target >= 0 if columns.target_classes else np.isfinite(columns.target)
            target = target_columns(columns.target, known, len(columns.target_classes))[rows]
        combat = Combat.fit(
            columns.filled(rows)[rows],
            columns.site[rows],
            columns.covariates[rows],
            target,
            reference=reference,
            fit_on=fit_on,
            subject=columns.person[rows],
        )
        return cls(combat, _means(columns.features.to_numpy()[rows]))

    def apply(self, features: pd.DataFrame, site: np.ndarray) -> pd.DataFrame:
        values = features.to_numpy()
        for line in self.combat.notes_on(site):
            warnings.warn(line, UserWarning, stacklevel=2)
        harmonised = self.combat.apply(np.where(np.isfinite(values), values, self.mean), site)
        return pd.DataFrame(harmonised, columns=features.columns)

    def save(self, path: pathlib.Path) -> None:
        write_arrays(path, self.combat.to_arrays() | {"feature_mean": self.mean})


def _labels(columns: Columns) -> np.ndarray:
    """Returns the target as the estimators read it: names of classes, or numbers; None or NaN where unknown."""
    if not columns.target_classes:
        return columns.target.astype(np.float64)
    names = np.array([*columns.target_classes, None], object)
    return names[columns.target]


def _means(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
