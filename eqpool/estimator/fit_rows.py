"""Encodes the arguments of `fit` once, for the design check, the calibration and the networks."""

import dataclasses
from typing import Any

import numpy as np

from eqpool.data.tables.arrays import as_column, as_names, as_nuisances, encode_covariates, fit_covariates
from eqpool.data.tables.coding import UNKNOWN
from eqpool.data.tables.covariate_coding import CovariateCoding
from eqpool.data.tables.levels import code_labels
from eqpool.data.tables.targets import TargetCoding
from eqpool.errors import InputError


@dataclasses.dataclass(frozen=True)
class FitRows:
    """N encoded rows of `fit`.

    Attributes:
      site: (N,) str names, "" where unknown.
      with_sites: whether `fit` was given sites.
      site_code: (N,) int32 indices of `sites`, -1 where unknown.
      sites: sorted names of the sites.
      coding, covariates: coding of the covariates, and (N, C) float64 values.
      target_coding, target, target_known: coding of the target, (N,) encoded values, and (N,) float32, 1 where known.
      target_name: name of the target.
      nuisance, nuisance_names, nuisance_levels: (N, Q) int32 levels or None, Q names, and the levels' names.
      subject: (N,) str labels of persons. Rows without one are each another person's. None if every row is.
      fit_on: (N,) bool, rows that the calibration learns from. None for all.
    """

    site: np.ndarray
    with_sites: bool
    site_code: np.ndarray
    sites: tuple[str, ...]
    coding: CovariateCoding
    covariates: np.ndarray
    target_coding: TargetCoding
    target: np.ndarray
    target_known: np.ndarray
    target_name: str
    nuisance: np.ndarray | None
    nuisance_names: tuple[str, ...]
    nuisance_levels: tuple[tuple[str, ...], ...]
    subject: np.ndarray | None
    fit_on: np.ndarray | None

    @classmethod
    def read(
        cls,
        count: int,
        y: Any,
        site: Any,
        covariates: Any,
        *,
        target_type: str,
        nuisances: Any = None,
        subject: Any = None,
        fit_on: Any = None,
    ) -> "FitRows":
        """Encodes N = `count` rows. The other arguments are those of `EquivariantPooling.fit`.

        Raises:
          InputError: an argument is invalid.
        """
        names = np.full(count, UNKNOWN) if site is None else as_names(site, count, "site")
        codes, sites = code_labels(names)
        covariates = np.zeros((count, 0)) if covariates is None else covariates
        coding = fit_covariates(covariates, count)
        values = encode_covariates(coding, covariates, count)
        target_coding = TargetCoding.fit(y, target_type)
        target, known = target_coding.encode(y, count)
        return cls(
            names, site is not None, codes, sites, coding, values, target_coding, target, known,
            "" if y is None else str(getattr(y, "name", None) or "y"), *as_nuisances(nuisances, count),
            None if subject is None else as_subjects(subject, count),
            None if fit_on is None else as_mask(fit_on, count),
        )  # fmt: skip

    @property
    def persons(self) -> np.ndarray:
        """Returns (N,) str labels of persons, row numbers if every row is another person's."""
        return np.arange(len(self.site)).astype(str) if self.subject is None else self.subject

    @property
    def target_columns(self) -> np.ndarray | None:
        """Returns the target as regression columns, or None without a target."""
        return self.target_coding.columns(self.target, self.target_known)


def as_subjects(subject: Any, count: int) -> np.ndarray:
    """Returns (N,) str labels of persons. A row without a label is another person's."""
    labels = as_names(subject, count, "subject")
    return np.array([label or f"row {row}" for row, label in enumerate(labels)], np.str_)


def as_mask(fit_on: Any, count: int) -> np.ndarray:
    """Returns the (N,) bool mask of the rows to learn from.

    Raises:
      InputError: the shape differs, an entry is not a truth value, or no row is chosen.
    """
    column = as_column(fit_on, count, "fit_on")
    bad = [value for value in column if not isinstance(value, bool | np.bool_)]
    if bad:
        raise InputError(f"fit_on: {bad[0]!r}, expected True or False a row")
    if not column.any():
        raise InputError("fit_on: no row is True, expected the rows to learn the sites' effects from")
    return column.astype(bool)
