"""Loads the three cohorts as arrays and divides them into folds."""

import dataclasses
import pathlib

import numpy as np
from sklearn.model_selection import StratifiedKFold

from eqpool.data.tables.covariates import parse_specs, read_covariates
from eqpool.data.tables.levels import code_labels
from eqpool.data.tables.participants import read_participants, select_features
from eqpool.errors import InputError

COHORTS = ("ixi_thickness", "abide1", "fcon1000")
_SMALLEST_PROBED_SITE = 10  # fewest subjects of a site that the probes predict
_ROLES = ("site", "age", "sex", "dx")


@dataclasses.dataclass(frozen=True)
class Table:
    """The table of one cohort.

    Attributes:
      name: name of its folder.
      features: (N, F) float64 features. Missing values and failed measurements (0) are NaN.
      site: (N,) int, indices into `site_names`.
      site_names: names of the sites.
      covariates: (N, 2) float64, age in years, and sex, 1 for male.
      labels: (N,) int labels 0 or 1, "sex" and, if it has two classes, "dx".
    """

    name: str
    features: np.ndarray
    site: np.ndarray
    site_names: tuple[str, ...]
    covariates: np.ndarray
    labels: dict[str, np.ndarray]

    @property
    def probed(self) -> np.ndarray:
        """Returns (N,) bool, true for rows of sites that are large enough to be probed."""
        return np.isin(self.site, np.flatnonzero(np.bincount(self.site) >= _SMALLEST_PROBED_SITE))


def load_table(folder: pathlib.Path, name: str) -> Table:
    """Reads `folder`/`name`/participants.tsv.

    Raises:
      InputError: the table is invalid. The one-line message names file, row and column.
    """
    table = read_participants(folder / name / "participants.tsv")
    for column in _ROLES[:3]:
        table.require(column, "experiments cohorts")
    covariates = read_covariates(table, parse_specs("age,sex:categorical")).values
    if not np.isfinite(covariates).all():
        raise InputError(f"{table.path}: a row without age or sex, expected none")
    features = select_features(table, ["*"], _ROLES).to_numpy(np.float64)
    site, site_names = code_labels(table.names_in("site"))
    labels = {"sex": covariates[:, 1].astype(int)}
    if "dx" in table.frame:
        diagnosis, classes = code_labels(table.names_in("dx"))
        labels |= {"dx": diagnosis} if len(classes) == 2 else {}
    return Table(name, np.where(features == 0, np.nan, features), site, site_names, covariates, labels)


def folds(table: Table, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (training rows, held-out rows) of each fold, stratified by site.

    All folds train on the same number of rows, so that code compiled for one fold serves the others. A few rows of the
    larger training sets are left out.
    """
    splits = list(StratifiedKFold(count, shuffle=True, random_state=seed).split(table.features, table.site))
    size = min(len(train) for train, _ in splits)
    generator = np.random.default_rng(seed)
    return [(np.sort(generator.permutation(train)[:size]), test) for train, test in splits]


def standardised(table: Table, train: np.ndarray) -> np.ndarray:
    """Returns (N, F) features standardised with the training rows' mean and deviation. Missing values become 0."""
    mean, deviation = np.nanmean(table.features[train], axis=0), np.nanstd(table.features[train], axis=0)
    return np.nan_to_num((table.features - mean) / np.where(deviation > 0, deviation, 1))
