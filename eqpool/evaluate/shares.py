"""The shares of variance that site, covariate and target explain in each version of the held-out rows."""

import dataclasses
from typing import Any

import numpy as np

from eqpool.data.tables.targets import target_columns
from eqpool.evaluate.intervals import jackknife_interval, jackknife_masks
from eqpool.evaluate.statistics import indicators, is_estimable, partial_r_squared

GROUPS = 20  # groups of the jackknife
MOST_VALUES = 2**21  # rows times columns; of more columns every second, third and so on is used

Parts = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class SharesOfVariance:
    """The regressors whose partial R^2 is measured, each beyond all others.

    Attributes:
      rows: (M,) indices of the held-out rows with a known site and target.
      regressors: (M, K) columns by name: "site", "covariate" (the first one) and "target", as far as they vary.
      others: (M, C - 1) further covariates, which are regressors in every model.
    """

    rows: np.ndarray
    regressors: dict[str, np.ndarray]
    others: np.ndarray

    @classmethod
    def of(
        cls,
        site: np.ndarray,
        covariates: np.ndarray,
        target: np.ndarray,
        target_classes: tuple[str, ...],
        rows: np.ndarray,
    ) -> "SharesOfVariance":
        """Chooses the rows and regressors. The arguments are (N, ...) arrays of all rows, and the held-out `rows`."""
        known = target >= 0 if target_classes else np.isfinite(target)
        has_target = len(np.unique(target[rows][known[rows]])) > 1
        rows = rows[(site[rows] >= 0) & (known[rows] | (not has_target))]
        columns = {"site": indicators(site[rows]), "covariate": covariates[rows][:, :1]}
        if has_target:
            columns["target"] = target_columns(target[rows], known[rows], len(target_classes))
        varying = {name: values for name, values in columns.items() if values.size and np.ptp(values, axis=0).any()}
        return cls(rows, varying, covariates[rows][:, 1:])

    def measure(self, values: np.ndarray, subject: np.ndarray, seed: int) -> Parts:
        """Computes the mean partial R^2 over columns of each regressor, by nested least squares.

        Args:
          values: (N, F) values of all rows.
          subject: (N,) subject of each row.
          seed: seed of the jackknife's groups.

        Returns:
          (1 + G,) by regressor: of all rows, and without each of G groups of subjects; NaN where it is not estimable.
        """
        if not len(self.rows):
            return {}
        columns = np.arange(0, values.shape[1], max(1, -(-values.shape[1] * len(self.rows) // MOST_VALUES)))
        used = values[np.ix_(self.rows, columns)].astype(np.float64)
        masks = jackknife_masks(len(self.rows), seed, GROUPS, subject[self.rows])
        return {name: np.array([self._share(name, used, mask) for mask in masks]) for name in self.regressors}

    def by_chance(self) -> dict[str, float]:
        """Returns the partial R^2 that is expected of columns with no relation to the regressor."""
        rows = len(self.rows)
        parameters = 1 + self.others.shape[1] + sum(columns.shape[1] for columns in self.regressors.values())
        own = {name: columns.shape[1] for name, columns in self.regressors.items()}
        freedom = rows - parameters
        return {
            f"partial_r_squared_{name}_by_chance": count / (count + freedom) if freedom > 0 else float("nan")
            for name, count in own.items()
        }

    def _share(self, name: str, values: np.ndarray, mask: np.ndarray) -> float:
        of_interest = self.regressors[name][mask]
        nuisance = [columns[mask] for other, columns in self.regressors.items() if other != name]
        beside = np.concatenate([self.others[mask], *nuisance], axis=1)
        if not is_estimable(of_interest, beside):
            return float("nan")
        return float(partial_r_squared([values[mask]], of_interest, beside).r_squared.mean())


def summarise(parts: Parts) -> dict[str, Any]:
    """Returns `partial_r_squared_<regressor>` with its jackknife interval."""
    result: dict[str, Any] = {}
    for name, values in parts.items():
        result[f"partial_r_squared_{name}"] = float(values[0])
        result[f"partial_r_squared_{name}_interval"] = jackknife_interval(float(values[0]), values[1:])
    return result


def subtract(parts: Parts, others: Parts) -> Parts:
    """Returns the differences of two versions' parts on the same rows."""
    return {name: values - others[name] for name, values in parts.items()}
