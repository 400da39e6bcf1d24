"""The pooled cohort, the common form of every source of data before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from eqpool.data.preflight.finding import Finding
from eqpool.data.tables.coding import UNKNOWN
from eqpool.data.tables.inputs import TableInputs
from eqpool.data.tables.targets import target_columns
from eqpool.data.volumes.calibrated import Inputs
from eqpool.data.volumes.inputs import VolumeInputs

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Cohort:
    """N scans (or table rows) of several sites.

    Attributes:
      name: name of the data set, for results.json.
      simulated: whether the images are simulated, which is said wherever the cohort is shown.
      participant_id: (N,) str, not unique if a subject has several scans.
      inputs: (N, F) float32 features, (N, height, width) float32 images, or (N, *grid.shape) float32 prepared volumes.
        Volumes are read from their records when indexed, so take them row by row. Scaled with training rows only. Never
        contains site or covariate.
      site: (N,) int32, index into `site_names`, -1 if unknown.
      site_names: names of the sites.
      covariates: (N, C) float64 in their own units (years), with C = 0 if there are none.
      covariate_names: names of the C covariates.
      first_levels: the level of each categorical covariate that has 0 in all of its columns, by the covariate's column.
      target: (N,) int32 class index, -1 if unknown. If `target_classes` is empty, (N,) float32, NaN if unknown.
      target_name: name of the target.
      target_classes: names of the classes, empty for a numeric target.
      split: (N,) str, each one of `SPLITS`.
      table: what only a table's inputs have, None for images and volumes.
      volumes: what only volumes have, None for tables and images.
      session: (N,) str, "" for a row without one. None for data without sessions.
      fit_on: (N,) bool, rows from which site effects are learnt, such as controls, None for all.
      nuisance: (N, Q) int32, further labels to be invariant to, such as sex, -1 if unknown. None without any.
      nuisance_names: names of the Q nuisances.
      nuisance_levels: names of the levels of each nuisance.
      described: (N, D) float64, columns that the report shows by site, NaN if missing. Never trained on.
      described_names: names of the D columns.
      notes: lines for the run's log on rows that were read or left out, and on assumptions.
      findings: findings of the pre-flight check on the features or volumes when they were read.
    """

    name: str
    simulated: bool
    participant_id: np.ndarray
    inputs: Inputs
    site: np.ndarray
    site_names: tuple[str, ...]
    covariates: np.ndarray
    covariate_names: tuple[str, ...]
    target: np.ndarray
    target_name: str
    target_classes: tuple[str, ...]
    split: np.ndarray
    table: TableInputs | None = None
    volumes: VolumeInputs | None = None
    first_levels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    session: np.ndarray | None = None
    fit_on: np.ndarray | None = None
    nuisance: np.ndarray | None = None
    nuisance_names: tuple[str, ...] = ()
    nuisance_levels: tuple[tuple[str, ...], ...] = ()
    described: np.ndarray | None = None
    described_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def target_known(self) -> np.ndarray:
        """Returns which rows have a known target, (N,) bool."""
        return self.target >= 0 if self.target_classes else np.isfinite(self.target)

    @property
    def site_labels(self) -> np.ndarray:
        """Returns the (N,) names of the rows' sites, "" where unknown."""
        return np.array([*self.site_names, UNKNOWN])[self.site]

    @property
    def target_columns(self) -> np.ndarray:
        """Returns the target as (N, K) regression columns; see `eqpool.data.tables.targets.target_columns`."""
        return target_columns(self.target, self.target_known, len(self.target_classes))

    @property
    def learns_site_effects(self) -> np.ndarray:
        """Returns which rows site effects are learnt from, (N,) bool.

        They are the training rows with a known site, and of these `fit_on` alone if it is given.
        """
        usable = (self.split == "train") & (self.site >= 0)
        return usable if self.fit_on is None else usable & self.fit_on

    @property
    def uncalibrated(self) -> Inputs:
        """Returns the inputs before the site calibration."""
        if self.table is not None:
            return self.table.encoded
        if self.volumes is not None and self.volumes.prepared is not None:
            return self.volumes.prepared
        return self.inputs

    def take(self, rows: np.ndarray) -> Cohort:
        """Returns a cohort of some rows, in the order of `rows`. Volumes in records are read into memory."""
        columns: dict[str, Any] = {
            name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        columns["inputs"] = self.inputs[rows]
        columns |= {name: part.take(rows) for name in ("table", "volumes") if (part := getattr(self, name)) is not None}
        return dataclasses.replace(self, **columns)

    def rows(self, split: str) -> np.ndarray:
        """Returns the row indices of one split, int64, in order."""
        return np.flatnonzero(self.split == split)


@dataclasses.dataclass(frozen=True)
class CovariateScaling:
    """A scaling of covariates to [0, 1] over the training range. Values outside the range extrapolate.

    Attributes:
      minimum, maximum: (C,) float64 limits over training rows, in the covariates' own units.
    """

    minimum: np.ndarray
    maximum: np.ndarray

    @classmethod
    def fit(cls, covariates: np.ndarray) -> CovariateScaling:
        """Fits the limits on the (N, C) covariates of training rows."""
        return cls(covariates.min(axis=0), covariates.max(axis=0))

    def apply(self, covariates: np.ndarray) -> np.ndarray:
        """Scales (N, C) covariates in their own units to (N, C) float32 in [0, 1], and a constant covariate to 0."""
        span = np.where(self.maximum > self.minimum, self.maximum - self.minimum, 1)
        return ((covariates - self.minimum) / span).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The scaling of covariates and target for training, which is saved with the model.

    Attributes:
      covariates: scaling of the covariates to [0, 1] over the training range.
      target_mean, target_deviation: mean and deviation of a numeric target over training rows, 0 and 1 for classes.
    """

    covariates: CovariateScaling
    target_mean: float
    target_deviation: float

    @classmethod
    def fit(cls, cohort: Cohort, labelled: np.ndarray | None = None) -> Scaling:
        """Fits the scaling on a cohort's training rows.

        Args:
          cohort: cohort to fit on.
          labelled: rows whose targets may be used, by default all training rows.
        """
        rows = cohort.rows("train")
        covariates = CovariateScaling.fit(cohort.covariates[rows])
        if cohort.target_classes:
            return cls(covariates, 0.0, 1.0)
        target = cohort.target[rows if labelled is None else labelled].astype(np.float64)
        return cls(covariates, float(np.nanmean(target)), float(np.nanstd(target)) or 1.0)

    def columns(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """Returns the columns that training needs besides the inputs, with one entry for each row of the cohort.

        Returns:
          A dictionary with these arrays:
            site: (N,) int32, -1 if unknown.
            covariate: (N, C) float32 in [0, 1].
            target: (N,) int32 classes or float32 standardised, 0 if unknown.
            target_known: (N,) float32, 0 or 1.
            nuisance: (N, Q) int32, only if there are nuisances.
        """
        known = cohort.target_known
        if cohort.target_classes:
            target = np.where(known, cohort.target, 0).astype(np.int32)
        else:
            scaled = (cohort.target - self.target_mean) / self.target_deviation
            target = np.where(known, scaled, 0).astype(np.float32)
        nuisance = {} if cohort.nuisance is None else {"nuisance": cohort.nuisance.astype(np.int32)}
        return nuisance | {
            "site": cohort.site.astype(np.int32),
            "covariate": self.covariates.apply(cohort.covariates),
            "target": target,
            "target_known": known.astype(np.float32),
        }

    def to_dict(self) -> dict:
        """Returns the scaling as plain numbers for JSON. `from_dict` is the inverse."""
        return {
            "covariate_minimum": self.covariates.minimum.tolist(),
            "covariate_maximum": self.covariates.maximum.tolist(),
            "target_mean": self.target_mean,
            "target_deviation": self.target_deviation,
        }

    @classmethod
    def from_dict(cls, values: dict) -> Scaling:
        """Returns the scaling from the values of `to_dict`, also if they were read from JSON."""
        minimum, maximum = (np.array(values[f"covariate_{name}"], np.float64) for name in ("minimum", "maximum"))
        return cls(CovariateScaling(minimum, maximum), values["target_mean"], values["target_deviation"])
