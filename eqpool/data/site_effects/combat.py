"""Harmonises features by ComBat, the location and scale of each site with parametric empirical Bayes.

Johnson et al. 2007 published the method for gene expression, and Fortin et al. 2018 for brain images. The estimates
equal those of neuroCombat up to the tolerance at which its iteration stops. Repeated rows of a person have a random
effect of the person, as in longitudinal ComBat (Beer et al. 2020).
"""

import dataclasses
from typing import Any

import numpy as np

from eqpool.data.site_effects.empirical_bayes import posterior, shrunk_means, shrunk_variances
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
      deviation: (F,) float64, pooled standard deviation within a person, about the fit. It is 0 for a feature that
        stays as it is, because it is constant or was not asked for.
      location: (S, F) float64, each site's offset in units of `deviation`.
      scale: (S, F) float64, each site's standard deviation within a person, in units of `deviation`.
      spread: (S, F) float64, each site's standard deviation about the fit over the pooled one, by which rows are
        corrected. It differs from `scale` only if persons have several rows.
      correlation: (F,) float64, correlation of two rows of a person, 0 if no person has several rows.
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
    spread: np.ndarray
    correlation: np.ndarray

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
        subject: np.ndarray | None = None,
        columns: np.ndarray | None = None,
        location_only: bool = False,
        shared_ratio: bool = False,
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
            subject=subject,
            columns=columns,
            location_only=location_only,
            shared_ratio=shared_ratio,
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
        subject: np.ndarray | None = None,
        columns: np.ndarray | None = None,
        location_only: bool = False,
        shared_ratio: bool = False,
    ) -> "Combat":
        """Learns the effects in two passes over streamed rows.

        If some persons have several rows, effects are estimated by generalised least squares with a random intercept
        for each person. A person who was scanned at two sites counts by the difference, and repeated rows do not count
        as independent. Without repeated rows the result is that of plain ComBat.

        Args:
          open_stream: opens a stream of (rows (n,), values (n, F)), which has each row once. Rows of a person should
            follow each other (`eqpool.data.site_effects.moments.by_person`), or they wait in memory.
          site: (N,) names. Rows with "" have no known site and are left out.
          covariates: (N, C) covariates whose effects are kept. C may be 0.
          target: (N, K) columns whose effects are kept, such as 0-1 columns of classes, NaN where unknown.
          reference: name of the site whose rows stay as they are and whose look the others take, "" for the average.
          fit_on: (N,) bool, the rows from which the effects are learnt, such as controls. By default all rows.
          subject: (N,) labels of persons. Rows with one label are scans of one person. None if every row is another
            person's.
          columns: (F,) bool, features to harmonise. The others, such as 0-1 columns of categories, stay as they are and
            inform no estimate of these. By default all.
          location_only: whether the sites' scales are left alone.
          shared_ratio: whether all features share one ratio of the variance between persons to that within a person.
            By default each has its own, as in longitudinal ComBat. That of a voxel would be noisy.

        Raises:
          ValueError: no row with a known site is left, or fewer than two people of the reference, whose variance is the
            scale.
        """
        used = np.asarray(site) != UNKNOWN
        if fit_on is not None:
            used = used & np.asarray(fit_on, bool)
        names, index = site_index(site, used, reference)
        terms, term_mean = centred_terms(covariates, target, used)
        person = None if subject is None else np.asarray(subject)
        model = fit_site_model(open_stream, terms, index, len(names), person, shared_ratio=shared_ratio)
        if reference and model.independent[names == reference].min() < 2:
            raise ValueError(f"reference: fewer than two people of {reference}, expected two for a variance")
        weights = model.rows / model.rows.sum() if not reference else (names == reference).astype(np.float64)
        mean, variance = weights @ model.constants, _pooled_variance(model, weights, reference)
        deviation = np.sqrt(np.where(variance > _CONSTANT * (mean**2 + variance), variance, 0))
        if columns is not None:
            deviation = np.where(columns, deviation, 0)
        location, scale, spread = _empirical_bayes(model, mean, deviation, location_only)
        if reference:
            location[names == reference], scale[names == reference], spread[names == reference] = 0, 1, 1
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
            spread=spread,
            correlation=np.broadcast_to(model.ratio / (1 + model.ratio), deviation.shape).copy(),
        )

    def apply(
        self,
        inputs: np.ndarray,
        site: np.ndarray,
        covariates: np.ndarray | None = None,
        target: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns harmonised rows, each by itself: neither its person nor the person's other rows are asked for.

        Hence a row's whole deviation is divided by its site's `spread`. Longitudinal ComBat divides the deviation from
        the person's own expected value by `scale`, and a single row does not show that value.

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
                scaled = centre[here][:, changes] + residual[:, changes] / self.spread[index, changes]
                harmonised[np.ix_(here, changes)] = scaled
        return harmonised

    def notes_on(self, site: np.ndarray) -> list[str]:
        """Returns a line if rows of these sites, (N,) names, stay as they are because their sites have no estimate."""
        count = int((~np.isin(site, self.sites)).sum())
        said = "1 row stays as it is: its site" if count == 1 else f"{count} rows stay as they are: their site"
        return [f"{said} is not one of {', '.join(self.sites)}"] if count else []

    def notes(self) -> list[str]:
        """Returns a line for a run's log if persons have several rows."""
        known = self.correlation[self.deviation > 0]
        if not known.any():
            return []
        typical = float(np.median(known))
        return [f"repeated scans of a person share a random effect: two of them correlate by {typical:.2f} (median)"]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns plain arrays, ready for an npz file. `from_arrays` is the inverse."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: np.asarray(value, np.str_ if name == "sites" else None) for name, value in values.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> "Combat":
        """Builds the estimates from the arrays that `to_arrays` returned, or from older ones without persons."""
        arrays = {"spread": arrays["scale"], "correlation": np.zeros_like(arrays["mean"])} | arrays
        values = {field.name: arrays[field.name] for field in dataclasses.fields(cls)}
        values["sites"] = same_labels(arrays["sites"], "combat")
        values |= {"reference": str(arrays["reference"]), "num_covariates": int(arrays["num_covariates"])}
        return cls(**values)


def _pooled_variance(model: SiteModel, weights: np.ndarray, reference: str) -> np.ndarray:
    """Returns the (F,) variance within a person about the fit, over all rows or those of the reference.

    It divides by their number, of which a row counts as far as it shows that variance.
    """
    if reference:
        return weights @ model.within_squares / (weights @ model.within_rows)
    return model.within_squares.sum(axis=0) / model.within_rows.sum(axis=0)


def _empirical_bayes(
    model: SiteModel, mean: np.ndarray, deviation: np.ndarray, location_only: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the posterior (S, F) locations, scales and spreads of the sites (Johnson et al. 2007, eqs. 3.1-3.2).

    A site with the rows of a single person has no variance of its own, and its scale and spread are left alone.
    """
    location, (scale, spread) = np.zeros_like(model.constants), np.ones((2, *model.constants.shape))
    changes = deviation > 0
    information, freedom, independent, expected = (
        np.broadcast_to(part, location.shape)[:, changes]
        for part in (model.information, model.freedom, model.independent, model.expected_squares)
    )
    whole = np.broadcast_to(1 + model.ratio, deviation.shape)[changes]  # variance of a row
    for index in range(len(location)):
        means = ((model.constants[index] - mean)[changes]) / deviation[changes]
        if location_only or model.independent[index].min() < 2:
            location[index, changes] = shrunk_means(means, information[index])
            continue
        variances = model.within_squares[index, changes] / (freedom[index] * deviation[changes] ** 2)
        location[index, changes], squared = posterior(means, variances, information[index], freedom[index])
        scale[index, changes] = spread[index, changes] = np.sqrt(squared)
        if model.ratio.any():
            worth = independent[index]
            variances = model.residual_squares[index, changes] / (expected[index] * whole)
            moved = worth * (means - location[index, changes]) ** 2 / whole
            spread[index, changes] = np.sqrt(shrunk_variances(variances / deviation[changes] ** 2, worth - 1, moved))
    return location, scale, spread
