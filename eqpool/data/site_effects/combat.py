"""Harmonises features by ComBat, the location and scale of each site with parametric empirical Bayes.

Johnson et al. 2007 published the method for gene expression, and Fortin et al. 2018 for brain images. The estimates
equal those of neuroCombat up to the tolerance at which its iteration stops.
"""

import dataclasses
from typing import Any

import numpy as np

from eqpool.data.site_effects.moments import (
    OpenStream,
    SiteModel,
    centred_terms,
    fit_site_model,
    site_index,
    terms_about,
)
from eqpool.data.tables.coding import UNKNOWN
from eqpool.data.tables.levels import same_labels

_TOLERANCE = 1e-8  # relative change of the estimates at which the iteration stops
_MOST_ITERATIONS = 10_000
# A feature with less variance than this share of its mean square is constant up to rounding.
_CONSTANT = 1e-20


@dataclasses.dataclass(frozen=True)
class Combat:
    """The effects of S sites on F features.

    Attributes:
      sites: names of the sites.
      rows: (S,) int64, number of rows from which each site's effect was learnt.
      reference: site whose rows stay as they are, "" for the average of all sites.
      term_mean: (P,) float64, means of the P terms, which are covariates followed by columns of the target.
      num_covariates: number of covariates among the terms.
      coefficients: (P, F) float64, effects of the terms, which are kept.
      mean: (F,) float64, mean of the harmonised features at the terms' means.
      deviation: (F,) float64, pooled standard deviation about the fit, 0 for a constant feature, which stays as it is.
      location: (S, F) float64, each site's offset in units of `deviation`.
      scale: (S, F) float64, each site's standard deviation in units of `deviation`.
    """

    sites: tuple[str, ...]
    rows: np.ndarray
    reference: str
    term_mean: np.ndarray
    num_covariates: int
    coefficients: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    location: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(
        cls,
        inputs: np.ndarray,
        site: np.ndarray,
        covariates: np.ndarray,
        target: np.ndarray | None = None,
        *,
        reference: str = "",
        fit_on: np.ndarray | None = None,
        location_only: bool = False,
    ) -> "Combat":
        """Learns the effects from rows in memory; see `fit_stream`, whose other arguments these are.

        Args:
          inputs: (N, F) features without missing values.
        """
        everyone = np.arange(len(inputs))
        return cls.fit_stream(
            lambda: [(everyone, inputs)],
            site,
            covariates,
            target,
            reference=reference,
            fit_on=fit_on,
            location_only=location_only,
        )

    @classmethod
    def fit_stream(
        cls,
        open_stream: OpenStream,
        site: np.ndarray,
        covariates: np.ndarray,
        target: np.ndarray | None = None,
        *,
        reference: str = "",
        fit_on: np.ndarray | None = None,
        location_only: bool = False,
    ) -> "Combat":
        """Learns the effects in two passes over streamed rows.

        Args:
          open_stream: opens a stream of (rows (n,), values (n, F)), which has each row once.
          site: (N,) names. Rows with "" have no known site and are left out.
          covariates: (N, C) covariates whose effects are kept. C may be 0.
          target: (N, K) columns whose effects are kept, such as 0-1 columns of classes, NaN where unknown.
          reference: name of the site whose rows stay as they are and whose look the others take, "" for the average.
          fit_on: (N,) bool, the rows from which the effects are learnt, such as controls. By default all rows.
          location_only: whether the sites' scales are left alone.

        Raises:
          ValueError: no row with a known site is left, or none of the reference.
        """
        used = np.asarray(site) != UNKNOWN
        if fit_on is not None:
            used = used & np.asarray(fit_on, bool)
        names, index = site_index(site, used, reference)
        terms, term_mean = centred_terms(covariates, target, used)
        model = fit_site_model(open_stream, terms, index, len(names))
        weights = model.rows / model.rows.sum() if not reference else (names == reference).astype(np.float64)
        mean, variance = weights @ model.constants, _pooled_variance(model, weights, reference)
        deviation = np.sqrt(np.where(variance > _CONSTANT * (mean**2 + variance), variance, 0))
        location, scale = _empirical_bayes(model, mean, deviation, location_only)
        if reference:
            location[names == reference], scale[names == reference] = 0, 1
        return cls(
            sites=tuple(map(str, names)),
            rows=model.rows,
            reference=reference,
            term_mean=term_mean,
            num_covariates=covariates.shape[1],
            coefficients=model.coefficients,
            mean=mean,
            deviation=deviation,
            location=location,
            scale=scale,
        )

    def apply(
        self,
        inputs: np.ndarray,
        site: np.ndarray,
        covariates: np.ndarray | None = None,
        target: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns harmonised rows.

        Without covariates, a site's scale is corrected about the mean training row, as neuroCombat does for rows that
        it was not fitted on. With them, it is corrected about the value that they predict.

        Args:
          inputs: (N, F) features.
          site: (N,) names. Rows of sites without an estimate are returned as they are.
          covariates: (N, C) covariates of these rows, or None.
          target: (N, K) columns of the target, or None for its mean in the training rows. Leave it out for rows whose
            target is to be predicted.

        Returns:
          (N, F) float64.
        """
        inputs = np.asarray(inputs, np.float64)
        centre = np.broadcast_to(self.mean, inputs.shape)
        if covariates is not None:
            centre = centre + terms_about(self.term_mean, covariates, target) @ self.coefficients
        harmonised = inputs.copy()
        changes = self.deviation > 0
        for index, name in enumerate(self.sites):
            here = np.flatnonzero(np.asarray(site) == name)
            if here.size and name != self.reference:
                residual = inputs[here] - centre[here] - self.deviation * self.location[index]
                scaled = centre[here][:, changes] + residual[:, changes] / self.scale[index, changes]
                harmonised[np.ix_(here, changes)] = scaled
        return harmonised

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns plain arrays, ready for an npz file. `from_arrays` is the inverse."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: np.asarray(value, np.str_ if name == "sites" else None) for name, value in values.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> "Combat":
        """Builds the estimates from the arrays that `to_arrays` returned."""
        values = {field.name: arrays[field.name] for field in dataclasses.fields(cls)}
        values["sites"] = same_labels(arrays["sites"], "combat")
        values |= {"reference": str(arrays["reference"]), "num_covariates": int(arrays["num_covariates"])}
        return cls(**values)


def _pooled_variance(model: SiteModel, weights: np.ndarray, reference: str) -> np.ndarray:
    """Returns the (F,) variance about the fit, over all rows or those of the reference. It divides by their number."""
    if reference:
        return weights @ model.residual_squares / (weights @ model.rows)
    return model.residual_squares.sum(axis=0) / model.rows.sum()


def _empirical_bayes(
    model: SiteModel, mean: np.ndarray, deviation: np.ndarray, location_only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the posterior (S, F) locations and standard deviations of the sites (Johnson et al. 2007, eqs. 3.1-3.2).

    A site with a single row has no variance of its own, and its scale is left alone.
    """
    location, scale = np.zeros_like(model.constants), np.ones_like(model.constants)
    changes = deviation > 0
    for index, rows in enumerate(model.rows):
        means = ((model.constants[index] - mean)[changes]) / deviation[changes]
        if location_only or rows < 2:
            location[index, changes] = _shrunk_means(means, rows)
            continue
        variances = model.residual_squares[index, changes] / ((rows - 1) * deviation[changes] ** 2)
        location[index, changes], squared = _posterior(means, variances, rows)
        scale[index, changes] = np.sqrt(squared)
    return location, scale


def _shrunk_means(means: np.ndarray, rows: int) -> np.ndarray:
    """Returns the posterior of (F,) site means whose rows have unit variance."""
    prior_mean, prior_variance = means.mean(), means.var(ddof=1) if means.size > 1 else 0.0
    return (rows * prior_variance * means + prior_mean) / (rows * prior_variance + 1)


def _posterior(means: np.ndarray, variances: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the posterior means and variances (F,) of one site, given its sample means and variances (F,).

    The prior of the mean is normal, that of the variance inverse gamma. Their parameters come from the moments over
    features.
    """
    if means.size < 2 or variances.var(ddof=1) == 0:
        return means, np.where(variances > 0, variances, 1)  # a single feature has no distribution to shrink to
    prior_mean, prior_variance = means.mean(), means.var(ddof=1)
    average, spread = variances.mean(), variances.var(ddof=1)
    shape, rate = (2 * spread + average**2) / spread, (average * spread + average**3) / spread
    location, squared = means, variances
    for _ in range(_MOST_ITERATIONS):
        moved = (rows * prior_variance * means + squared * prior_mean) / (rows * prior_variance + squared)
        squares = (rows - 1) * variances + rows * (means - moved) ** 2
        varied = (squares / 2 + rate) / (rows / 2 + shape - 1)
        change = max(np.abs(moved - location).max(), np.abs(varied / squared - 1).max() if squared.all() else 1.0)
        location, squared = moved, varied
        if change < _TOLERANCE:
            break
    return location, squared
