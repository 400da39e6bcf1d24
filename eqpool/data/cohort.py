"""The pooled cohort: what every source of data becomes before training."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from eqpool.data.preflight.finding import Finding
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.encoding import FeatureEncoding
from eqpool.data.volumes.records import Inputs

SPLITS = ("train", "validation", "test")


def _no_names() -> np.ndarray:
    return np.zeros(0, np.str_)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A voxel grid in template space.

    Attributes:
      name: as the user gave it, for messages.
      shape: voxels along x, y, z (RAS+).
      affine: (4, 4) float64, voxel indices to millimetres.
      mask: bool array of `shape`, True inside the brain.
    """

    name: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cohort:
    """N scans (or table rows) of several sites.

    Attributes:
      name: of the data set, for results.json.
      simulated: True where the images are made up; said wherever the cohort is shown.
      participant_id: (N,) str, not unique where a subject has several scans.
      inputs: (N, F) float32 features, (N, height, width) float32 images, or (N, *grid.shape) float32 prepared volumes,
        which are read from their records when asked for: take them row by row. Scaled with training rows only; never
        holds site or covariate.
      input_names: the F feature names; empty for images and volumes.
      site: (N,) int32, index into `site_names`; -1 where unknown.
      covariates: (N, C) float64 in their own units (years); C is 0 where there are none.
      target: (N,) int32 class index, -1 where unknown; if `target_classes` is empty (N,) float32, NaN where unknown.
      split: (N,) str, each one of `SPLITS`.
      grid: of the volumes; None for a table and for images.
      notes: lines for the run's log: what was read, left out and assumed.
      nuisance: (N, Q) int32, further labels to be invariant to, such as sex; -1 where unknown. None without any.
      nuisance_names: the Q names.
      nuisance_levels: the names of each one's levels.
      described: (N, D) float64, columns that the report shows by site, NaN where missing; never trained on.
      described_names: the D names.
      encoding: how a participants table's features became `inputs`; None for volumes and public data.
      calibration: of a table's features, which `inputs` have gone through; None where they have not.
      findings: what the pre-flight check found in the features or volumes when they were read.
      image_path: (N,) str, the file of each volume; (0,) for tables and digits.
      image_root: the folder of the data set that they belong to; "" for tables and digits.
      scan_name: (N,) str, name of each volume's derivatives, by `eqpool.data.volumes.bids_names`; (0,) as above.
      mask_overlap: (N,) float64, Dice coefficient of each volume's non-zero voxels and the template's brain mask; (0,)
        where there are no volumes.
      session: (N,) str, "" where a table tells no sessions apart; (0,) for digits and published tables.
      alignment: (N, 4, 4) float64, each image's millimetres to the template's; (0, 4, 4) where they are the same.
    """

    name: str
    simulated: bool
    participant_id: np.ndarray
    inputs: Inputs
    input_names: tuple[str, ...]
    site: np.ndarray
    site_names: tuple[str, ...]
    covariates: np.ndarray
    covariate_names: tuple[str, ...]
    target: np.ndarray
    target_name: str
    target_classes: tuple[str, ...]
    split: np.ndarray
    grid: Grid | None = None
    notes: tuple[str, ...] = ()
    nuisance: np.ndarray | None = None
    nuisance_names: tuple[str, ...] = ()
    nuisance_levels: tuple[tuple[str, ...], ...] = ()
    described: np.ndarray | None = None
    described_names: tuple[str, ...] = ()
    encoding: FeatureEncoding | None = None
    calibration: SiteCalibration | None = None
    findings: tuple[Finding, ...] = ()
    image_path: np.ndarray = dataclasses.field(default_factory=_no_names)
    image_root: str = ""
    scan_name: np.ndarray = dataclasses.field(default_factory=_no_names)
    mask_overlap: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    session: np.ndarray = dataclasses.field(default_factory=_no_names)
    alignment: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 4, 4)))

    @property
    def target_known(self) -> np.ndarray:
        """(N,) bool."""
        return self.target >= 0 if self.target_classes else np.isfinite(self.target)

    def alignment_of(self, row: int) -> np.ndarray | None:
        """(4, 4), from the row's image's millimetres to the template's; None where they are the same."""
        return self.alignment[row] if len(self.alignment) else None

    def take(self, rows: np.ndarray) -> Cohort:
        """Some rows of every column, in the order of their indices; volumes that lie in records are read."""
        count = len(self.site)
        columns: dict[str, Any] = {
            name: value[rows]
            for name, value in vars(self).items()
            if name == "inputs" or (isinstance(value, np.ndarray) and len(value) == count)
        }
        return dataclasses.replace(self, **columns)

    def rows(self, split: str) -> np.ndarray:
        """The row indices of one split, int64, in order."""
        return np.flatnonzero(self.split == split)


@dataclasses.dataclass(frozen=True)
class CovariateScaling:
    """Covariates to [0, 1] over the training range; outside it c extrapolates.

    Attributes:
      minimum, maximum: (C,) float64, over training rows, in the covariates' own units.
    """

    minimum: np.ndarray
    maximum: np.ndarray

    @classmethod
    def fit(cls, covariates: np.ndarray) -> CovariateScaling:
        """From the (N, C) covariates of training rows."""
        return cls(covariates.min(axis=0), covariates.max(axis=0))

    def apply(self, covariates: np.ndarray) -> np.ndarray:
        """(N, C) covariates in their own units to (N, C) float32 in [0, 1]; one that is constant to 0."""
        span = np.where(self.maximum > self.minimum, self.maximum - self.minimum, 1)
        return ((covariates - self.minimum) / span).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How covariates and target were scaled for training; kept with the model.

    Attributes:
      covariates: to [0, 1] over the training range.
      target_mean, target_deviation: of a numeric target over training rows; 0 and 1 for classes.
    """

    covariates: CovariateScaling
    target_mean: float
    target_deviation: float

    @classmethod
    def fit(cls, cohort: Cohort, labelled: np.ndarray | None = None) -> Scaling:
        """From a cohort's training rows alone; the target's of the rows `labelled`, where not all may be looked at."""
        rows = cohort.rows("train")
        covariates = CovariateScaling.fit(cohort.covariates[rows])
        if cohort.target_classes:
            return cls(covariates, 0.0, 1.0)
        target = cohort.target[rows if labelled is None else labelled].astype(np.float64)
        return cls(covariates, float(np.nanmean(target)), float(np.nanstd(target)) or 1.0)

    def columns(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """What training needs beside the inputs, one entry a row of the cohort.

        Returns:
          `site` (N,) int32, -1 unknown; `covariate` (N, C) float32 in [0, 1]; `target` (N,), int32 classes or float32
          standardised, 0 where unknown; `target_known` (N,) float32, 0 or 1; and `nuisance` (N, Q) int32 where there
          are nuisances.
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
        """As plain numbers, for JSON; `from_dict` is the inverse."""
        return {
            "covariate_minimum": self.covariates.minimum.tolist(),
            "covariate_maximum": self.covariates.maximum.tolist(),
            "target_mean": self.target_mean,
            "target_deviation": self.target_deviation,
        }

    @classmethod
    def from_dict(cls, values: dict) -> Scaling:
        """From what `to_dict` gave, also after a trip through JSON."""
        minimum, maximum = (np.array(values[f"covariate_{name}"], np.float64) for name in ("minimum", "maximum"))
        return cls(CovariateScaling(minimum, maximum), values["target_mean"], values["target_deviation"])
