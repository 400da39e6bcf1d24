"""The calibration of all sites: fitted on training rows, applied to any rows."""

import dataclasses
from typing import Any

import numpy as np

from eqpool.data.tables.calibration import archive, estimate
from eqpool.data.tables.calibration.effect import SiteEffect
from eqpool.data.tables.calibration.shared import SharedEstimates
from eqpool.data.tables.calibration.unknown import Population
from eqpool.data.tables.splines import CovariateDesign

METHODS = ("location", "location_scale", "covariance", "auto")


@dataclasses.dataclass(frozen=True)
class SiteCalibration:
    """The scanner effects of all sites, and what the effect of a new site is estimated with.

    Attributes:
      correction: the method, one of `METHODS`.
      design: regression design of the covariates.
      effects: (P + K, F) float64, regression coefficients of the design's P columns and the target's K columns.
      target_mean: (K,) float64, mean of the target's columns.
      level: (F,) float64, features of the average scanner at the design's origin.
      shared: what all sites share, and the distribution that their effects are draws from.
      population: distribution of features on the average scanner.
      correlation: mean over features of the correlation of two rows of a person.
      reference: site whose rows come back unchanged, "" for the average scanner.
      sites: scanner effects by site name.
    """

    correction: str
    design: CovariateDesign
    effects: np.ndarray
    target_mean: np.ndarray
    level: np.ndarray
    shared: SharedEstimates
    population: Population
    correlation: float
    reference: str
    sites: dict[str, SiteEffect]

    @classmethod
    def fit(
        cls,
        inputs: np.ndarray,
        site: np.ndarray,
        covariates: np.ndarray,
        target: np.ndarray | None = None,
        *,
        method: str = "auto",
        prior_rows: float | None = None,
        reference: str = "",
        fit_on: np.ndarray | None = None,
        subject: np.ndarray | None = None,
    ) -> "SiteCalibration":
        """Learns the calibration from training rows.

        Args:
          inputs: (N, F) standardised features without missing values.
          site: (N,) names. Rows with "" have no known site and are left out.
          covariates: (N, C) covariates. C may be 0.
          target: (N, K) columns whose effects are preserved, such as 0-1 columns of classes or a standardised number,
            NaN where unknown.
          method: "location"; "location_scale"; "covariance", which adds the sites' covariances with `prior_rows`; or
            "auto", which adds them as far as held-out rows support it.
          prior_rows: number of rows without an effect that each site's covariance is averaged with. Infinity leaves the
            covariance alone. None chooses it for "auto", and means 1.2 per feature for "covariance".
          reference: site whose rows come back unchanged, and whose look the other sites take. "" for the average.
          fit_on: (N,) bool, rows to learn from. None for all.
          subject: (N,) labels of persons. Repeated rows of a person share a random effect in each feature
            (`eqpool.data.site_effects.person_effects`) and do not count as independent. None if every row is another
            person's.

        Raises:
          InputError: no row has a known site, or none of `reference`.
        """
        fields = estimate.fit(inputs, site, covariates, target, method, prior_rows, reference, fit_on, subject)
        return cls(correction=method, reference=reference, **fields)

    def with_site(
        self,
        name: str,
        inputs: np.ndarray,
        covariates: np.ndarray,
        target: np.ndarray | None = None,
        subject: np.ndarray | None = None,
        *,
        failed: np.ndarray | None = None,
    ) -> "SiteCalibration":
        """Returns a copy that includes, or replaces, the effect of the site `name`, learnt from (N, F) rows of it.

        The effect is shrunk towards the distribution of the known sites' effects. One row is enough. `target` is
        (N, K), as in `fit`. Without it, every row is given the mean target of the training rows. The (F,) features that
        `failed` are not estimated, besides those with one value in all rows.
        """
        columns = np.broadcast_to(self.target_mean, (len(inputs), len(self.target_mean))) if target is None else target
        terms = np.concatenate([self.design.apply(covariates), np.nan_to_num(columns - self.target_mean)], axis=1)
        expected = self.level + terms @ self.effects
        effect = estimate.new_effect(
            self.shared, inputs.astype(np.float64), expected, self.correlation, subject, failed,
            with_scale=self.correction != "location",
        )  # fmt: skip
        return dataclasses.replace(self, sites=self.sites | {name: effect})

    def apply(self, inputs: np.ndarray, site: np.ndarray, covariates: np.ndarray | None = None) -> np.ndarray:
        """Returns (N, F) float32 features, each row as expected from the average scanner or the reference site.

        Args:
          inputs: (N, F) standardised features without missing values.
          site: (N,) names. A row of an unknown site gets the mean of the sites' corrections, weighted by `posterior`.
            As far as it looks like no known site, the shift that a further site has most likely is subtracted.
          covariates: (N, C) covariates, which sharpen the posterior of unknown sites, or None.
        """
        given, calibrated = inputs.astype(np.float64), inputs.astype(np.float64)
        for name in self.sites:
            here = site == name
            if here.any():
                calibrated[here] = self._corrected(name, given[here])
        unknown = ~np.isin(site, list(self.sites))
        if unknown.any():
            calibrated[unknown] = self._soft(given[unknown], None if covariates is None else covariates[unknown])
        return calibrated.astype(np.float32)

    def _soft(self, rows: np.ndarray, covariates: np.ndarray | None) -> np.ndarray:
        expected = None if covariates is None else self.expected(covariates)
        weights = self.population.posterior(rows, self.sites, expected)
        other = rows - self.population.likely_shift(rows, expected)
        if self.reference:
            other = self.sites[self.reference].undo(other)
        corrected = [*(self._corrected(name, rows) for name in self.sites), other]
        return np.einsum("nk,knf->nf", weights, np.stack(corrected))

    def unchanged(self, site: np.ndarray) -> np.ndarray:
        """Returns the (N, F) values that `apply` leaves alone: the reference's rows, and failed features of a site."""
        unchanged = np.zeros((len(site), len(self.level)), bool)
        for name, effect in self.sites.items():
            unchanged[site == name] = effect.unchanged | (name == self.reference)
        return unchanged

    def posterior(self, inputs: np.ndarray, covariates: np.ndarray | None = None) -> np.ndarray:
        """Returns the probabilities of each known site, and last of none of them, (N, K + 1)."""
        expected = None if covariates is None else self.expected(covariates)
        return self.population.posterior(inputs.astype(np.float64), self.sites, expected)

    def expected(self, covariates: np.ndarray) -> np.ndarray:
        """Returns the (N, F) features that the average scanner gives on average at (N, C) covariates."""
        terms = self.design.apply(covariates)
        return self.level + terms @ self.effects[: terms.shape[1]]

    def describe(self) -> dict[str, Any]:
        """Returns what was corrected, and how strongly, as plain values."""
        features, choice = len(self.level), self.shared.choice
        return {
            "method": self.correction,
            "reference": self.reference or "average scanner",
            "rows": {name: effect.rows for name, effect in self.sites.items()},
            "shift": {name: _typical(effect.shift) for name, effect in self.sites.items()},
            "scale": {name: float(np.exp(np.mean(np.log(effect.scale)))) for name, effect in self.sites.items()},
            "covariance": choice.name(features),
            "covariance_gains": choice.gains,
            "person_correlation": self.correlation,
            "unchanged": {n: np.flatnonzero(e.unchanged).tolist() for n, e in self.sites.items() if e.unchanged.any()},
        }

    def summary(self) -> str:
        """Returns one line for a run's log on what was corrected, and how strongly."""
        facts = self.describe()
        scales = ", ".join(f"{name} {value:.2f}" for name, value in facts["scale"].items())
        parts = [f"site calibration ({self.correction}): location"]
        if self.correction != "location":
            parts.append(f"scale ({scales if len(self.sites) <= 6 else _range(facts['scale'].values())})")
        parts.append(facts["covariance"])
        if self.correlation:
            parts.append(f"correlation {self.correlation:.2f} of a person's rows")
        towards = f"; {self.reference} is the reference" if self.reference else ""
        return ", ".join(parts) + towards

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns plain arrays, ready for an npz file. `from_arrays` is the inverse."""
        return archive.pack(vars(self))

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> "SiteCalibration":
        """Builds the calibration from the arrays that `to_arrays` returned.

        Raises:
          InputError: a version of eqpool with another calibration wrote them.
        """
        return cls(**archive.unpack(arrays))

    def _corrected(self, name: str, rows: np.ndarray) -> np.ndarray:
        effect = self.sites[name]
        if name == self.reference:
            return rows
        given = np.where(effect.unchanged, effect.centre, rows)
        corrected = effect.apply(given)
        unchanged = effect.unchanged
        if self.reference:
            reference = self.sites[self.reference]
            corrected, unchanged = reference.undo(corrected), unchanged | reference.unchanged
        return np.where(unchanged, rows, corrected)


def _typical(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _range(values: Any) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"
