"""Estimates each scanner's effect on the location and covariance of tabular features, and removes it before training.

Covariates and target are regressed out, and each site's residuals are mapped onto the pooled residual distribution.
Three rules protect small sites and sites with different age ranges:

- Every estimate is shrunk towards "no scanner effect". A site's covariance is shrunk as if `prior_rows` further rows
  had shown no effect.
- Directions in which covariates and target act are shifted but never rotated or scaled. A site with a narrow age range
  is therefore not stretched to the spread of the others.
- Applying the calibration needs neither covariates nor target.
"""

import dataclasses
from typing import Any

import numpy as np

from eqpool.data.tables.coding import same_labels
from eqpool.data.tables.splines import CovariateDesign

SHIFT_PRIOR_ROWS = 3.0  # a few rows suffice to estimate a mean
PRIOR_ROWS_A_FEATURE = 1.2  # the rows needed to estimate a covariance grow with the number of features
_DIAGONAL_SHARE = 0.05  # weight of the diagonal in the pooled covariance, which makes it invertible


@dataclasses.dataclass(frozen=True)
class SiteEffect:
    """The effect of one scanner.

    Attributes:
      rows: number of training rows that the effect was learnt from.
      centre: (F,) float64, mean of these rows.
      shift: (F,) float64, offset that `apply` subtracts.
      transport: (F, F) float64, matrix by which a row's difference from `centre` is multiplied from the right.
    """

    rows: int
    centre: np.ndarray
    shift: np.ndarray
    transport: np.ndarray

    def apply(self, inputs: np.ndarray) -> np.ndarray:
        """Maps (N, F) rows of this scanner to the values expected from the average scanner."""
        return self.centre - self.shift + (inputs - self.centre) @ self.transport


@dataclasses.dataclass(frozen=True)
class SiteCalibration:
    """The scanner effects of all sites, and the pooled reference for the effect of a new site.

    Attributes:
      design: regression design of the covariates.
      effects: (P + K, F) float64, regression coefficients of the design's P columns and the target's K columns.
      target_mean: (K,) float64, mean of the target's columns.
      level: (F,) float64, pooled mean of the residuals.
      whitening, unwhitening: (F, F) float64, inverse square root and square root of the pooled covariance.
      kept: (F, D) float64, orthonormal whitened directions of covariates and target.
      prior_rows: number of rows without an effect that each site's covariance is averaged with.
      sites: scanner effects by site name.
    """

    design: CovariateDesign
    effects: np.ndarray
    target_mean: np.ndarray
    level: np.ndarray
    whitening: np.ndarray
    unwhitening: np.ndarray
    kept: np.ndarray
    prior_rows: float
    sites: dict[str, SiteEffect]

    @classmethod
    def fit(
        cls,
        inputs: np.ndarray,
        site: np.ndarray,
        covariates: np.ndarray,
        target: np.ndarray | None = None,
        *,
        prior_rows: float | None = None,
    ) -> "SiteCalibration":
        """Learns the calibration from training rows.

        Args:
          inputs: (N, F) standardised features without missing values.
          site: (N,) names. Rows with "" have no known site and are left out.
          covariates: (N, C) covariates. C may be 0.
          target: (N, K) columns whose effects are preserved, such as 0-1 columns of classes or a standardised number,
            NaN where unknown.
          prior_rows: number of rows without an effect that each site's covariance is averaged with. Infinity corrects
            the location alone. None means 1.2 per feature.

        Raises:
          ValueError: no row has a known site.
        """
        prior_rows = PRIOR_ROWS_A_FEATURE * inputs.shape[1] if prior_rows is None else prior_rows
        known = site != ""
        if not known.any():
            raise ValueError("site: every row's site is unknown, expected at least one that is known")
        inputs, site, covariates = inputs[known].astype(np.float64), site[known], covariates[known]
        columns = np.zeros((len(inputs), 0)) if target is None else np.asarray(target, np.float64)[known]
        target_mean = np.array([column[np.isfinite(column)].mean() for column in columns.T])
        columns = np.nan_to_num(columns - target_mean)
        design = CovariateDesign.fit(covariates)
        terms = np.concatenate([design.apply(covariates), columns], axis=1)
        names, number = np.unique(site, return_inverse=True)
        effects = _effects(terms, number, inputs)
        left_over = inputs - terms @ effects
        means = np.stack([left_over[number == index].mean(axis=0) for index in range(len(names))])
        whitening, unwhitening = _square_roots(_pooled_covariance(left_over - means[number]))
        linear = np.concatenate([terms[:, : covariates.shape[1]], columns], axis=1)
        kept = _directions(_effects(linear, number, inputs) @ whitening)
        level = left_over.mean(axis=0)
        self = cls(design, effects, target_mean, level, whitening, unwhitening, kept, prior_rows, {})
        for index, name in enumerate(names):
            here = number == index
            self.sites[str(name)] = self._effect(inputs[here], left_over[here])
        return self

    def with_site(
        self, name: str, inputs: np.ndarray, covariates: np.ndarray, target: np.ndarray | None = None
    ) -> "SiteCalibration":
        """Returns a copy that includes, or replaces, the effect of the site `name`, learnt from (N, F) rows of it.

        `target` is (N, K), as in `fit`. Without it, every row is given the mean target of the training rows.
        """
        columns = np.broadcast_to(self.target_mean, (len(inputs), len(self.target_mean))) if target is None else target
        terms = np.concatenate([self.design.apply(covariates), np.nan_to_num(columns - self.target_mean)], axis=1)
        inputs = inputs.astype(np.float64)
        added = {name: self._effect(inputs, inputs - terms @ self.effects)}
        return dataclasses.replace(self, sites=self.sites | added)

    def apply(self, inputs: np.ndarray, site: np.ndarray) -> np.ndarray:
        """Returns (N, F) float32 features, each row as expected from the average scanner.

        Args:
          inputs: (N, F) standardised features without missing values.
          site: (N,) names. Rows whose site was not calibrated are treated as rows of the most similar site.
        """
        calibrated = inputs.astype(np.float64)
        known = np.isin(site, list(self.sites))
        site = site.astype(object)
        site[~known] = self.nearest(inputs[~known])
        for name, effect in self.sites.items():
            here = site == name
            if here.any():
                calibrated[here] = effect.apply(calibrated[here])
        return calibrated.astype(np.float32)

    def nearest(self, inputs: np.ndarray) -> np.ndarray:
        """Returns the (N,) most similar sites, by linear discriminant analysis with the pooled covariance."""
        names = np.array(list(self.sites), object)
        whitened = inputs @ self.whitening
        centres = np.stack([effect.centre for effect in self.sites.values()]) @ self.whitening
        priors = np.log([effect.rows for effect in self.sites.values()])
        return names[np.argmax(whitened @ centres.T - np.sum(centres**2, axis=1) / 2 + priors, axis=1)]

    def _effect(self, inputs: np.ndarray, left_over: np.ndarray) -> SiteEffect:
        rows = len(inputs)
        shift = (left_over.mean(axis=0) - self.level) * rows / (rows + SHIFT_PRIOR_ROWS)
        transport = np.eye(inputs.shape[1])
        if rows > 1 and np.isfinite(self.prior_rows):
            centred = (left_over - left_over.mean(axis=0)) @ self.whitening
            turn = self._turn(centred.T @ centred / (rows - 1), rows)
            transport = self.whitening @ turn @ self.unwhitening
        return SiteEffect(rows, inputs.mean(axis=0), shift, transport)

    def _turn(self, covariance: np.ndarray, rows: int) -> np.ndarray:
        """Returns the inverse square root of a shrunk whitened covariance, with the identity on the kept directions."""
        share = self.prior_rows / (self.prior_rows + rows)
        identity = np.eye(len(covariance))
        kept = self.kept @ self.kept.T
        free = identity - kept
        shrunk = free @ ((1 - share) * covariance + share * identity) @ free + kept
        return kept + free @ _power(shrunk, -0.5) @ free

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns plain arrays, ready for an npz file. `from_arrays` is the inverse."""
        shared = {name: getattr(self, name) for name in _SHARED}
        knots = {f"knots/{index}": knots for index, knots in enumerate(self.design.knots)}
        sites = {
            f"sites/{index}/{field.name}": np.asarray(getattr(effect, field.name))
            for index, effect in enumerate(self.sites.values())
            for field in dataclasses.fields(SiteEffect)
        }
        names = {"names": np.array(list(self.sites), np.str_), "prior_rows": np.asarray(self.prior_rows)}
        covariates = {"covariate_mean": self.design.mean, "covariate_scale": self.design.scale}
        return shared | knots | sites | names | covariates

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> "SiteCalibration":
        """Builds the calibration from the arrays that `to_arrays` returned."""
        mean = arrays["covariate_mean"]
        knots = tuple(arrays[f"knots/{index}"] for index in range(len(mean)))
        sites = {
            name: SiteEffect(
                int(arrays[f"sites/{index}/rows"]),
                *(arrays[f"sites/{index}/{part}"] for part in ("centre", "shift", "transport")),
            )
            for index, name in enumerate(same_labels(arrays["names"], "site_calibration"))
        }
        shared = {name: arrays[name] for name in _SHARED}
        design = CovariateDesign(mean, arrays["covariate_scale"], knots)
        return cls(design=design, sites=sites, prior_rows=float(arrays["prior_rows"]), **shared)


_SHARED = ("effects", "target_mean", "level", "whitening", "unwhitening", "kept")


def _effects(terms: np.ndarray, number: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Returns the (P, F) least-squares coefficients of the terms, fitted jointly with a constant for each site."""
    sites = (number[:, None] == np.arange(number.max() + 1)[None]).astype(np.float64)
    return np.linalg.lstsq(np.concatenate([terms, sites], axis=1), inputs, rcond=None)[0][: terms.shape[1]]


def _pooled_covariance(residuals: np.ndarray) -> np.ndarray:
    covariance = residuals.T @ residuals / len(residuals)
    variance = np.maximum(np.diag(covariance), 1e-6)  # a constant feature
    return (1 - _DIAGONAL_SHARE) * covariance + _DIAGONAL_SHARE * np.diag(variance)


def _square_roots(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _power(covariance, -0.5), _power(covariance, 0.5)


def _power(symmetric: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.maximum(values, 1e-9) ** exponent) @ vectors.T


def _directions(rows: np.ndarray) -> np.ndarray:
    """Returns an (F, D) orthonormal basis of the span of (P, F) rows."""
    if not len(rows):
        return np.zeros((rows.shape[1], 0))
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    return vectors[values > 1e-9 * max(values[0], 1e-300)].T
