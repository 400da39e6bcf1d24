"""Estimates the parts of a `SiteCalibration` from training rows, in float64."""

import dataclasses
from typing import Any

import numpy as np

from eqpool.data.tables.calibration.covariance import (
    NO_COVARIANCE,
    PRIOR_ROWS_A_FEATURE,
    CovarianceChoice,
    Whitening,
    choose_covariance,
    fit_directions,
)
from eqpool.data.tables.calibration.effect import SiteEffect
from eqpool.data.tables.calibration.regression import SiteFit, fit_sites
from eqpool.data.tables.calibration.shared import SharedEstimates
from eqpool.data.tables.calibration.shrinkage import (
    ShiftPrior,
    VariancePrior,
    centred_over_sites,
    log_ratio,
    log_variances,
)
from eqpool.data.tables.calibration.unknown import Population
from eqpool.data.tables.splines import CovariateDesign
from eqpool.errors import InputError

_ROUNDS = 4  # of scale and regression in turn


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Training rows of known sites: features, sites as 0 to K - 1 with names, regression terms, persons as codes."""

    inputs: np.ndarray
    number: np.ndarray
    names: list[str]
    terms: np.ndarray
    linear: np.ndarray
    person: np.ndarray
    failed: np.ndarray  # (K, F) bool, features with one value in all rows of a site


def fit(
    inputs: np.ndarray,
    site: np.ndarray,
    covariates: np.ndarray,
    target: np.ndarray | None,
    method: str,
    prior_rows: float | None,
    reference: str,
    fit_on: np.ndarray | None,
    subject: np.ndarray | None,
) -> dict[str, Any]:
    """Returns the fields of a `SiteCalibration` except method and reference, from the arguments of its `fit`."""
    used = site != "" if fit_on is None else (site != "") & np.asarray(fit_on, bool)
    if not used.any():
        raise InputError("site: every row's site is unknown, expected at least one that is known")
    columns = np.zeros((len(inputs), 0)) if target is None else np.asarray(target, np.float64)
    columns = columns[used]
    target_mean = np.array(
        [column[np.isfinite(column)].mean() if np.isfinite(column).any() else 0.0 for column in columns.T]
    )
    columns = np.nan_to_num(columns - target_mean)
    design = CovariateDesign.fit(covariates[used])
    terms = np.concatenate([design.apply(covariates[used]), columns], axis=1)
    linear = np.concatenate([terms[:, : covariates.shape[1]], columns], axis=1)
    names, number = np.unique(site[used], return_inverse=True)
    if reference and reference not in names:
        raise InputError(
            f"reference: {reference}, expected one of {', '.join(map(str, names))}, which have training rows"
        )
    person = np.arange(used.sum()) if subject is None else np.unique(np.asarray(subject)[used], return_inverse=True)[1]
    failed = np.stack([_constant(inputs[used][number == index]) for index in range(len(names))])
    filled = _filled(inputs[used].astype(np.float64), failed[number])
    rows = _Rows(filled, number, [str(name) for name in names], terms, linear, person, failed)
    return _fields(rows, method, prior_rows) | {"design": design, "target_mean": target_mean}


def _fields(rows: _Rows, method: str, prior_rows: float | None) -> dict[str, Any]:
    sites = len(rows.names)
    fitted, scale, scale_prior, residuals = _scaled_fit(rows, with_scale=method != "location")
    linear = fit_sites(rows.linear, rows.number, rows.person, rows.inputs / scale[rows.number]).effects
    whitening = Whitening.fit(residuals, linear)
    choice = _choice(rows, residuals, method, prior_rows)
    direction_prior, logs = fit_directions(whitening.scores(residuals), rows.number, sites)
    centres, level = _centres(rows, fitted, scale)
    errors = fitted.errors * scale**2 * residuals.var(axis=0)
    shift_prior = ShiftPrior.fit(centres - level, errors)
    parts = SharedEstimates(whitening, shift_prior, scale_prior, direction_prior, choice)
    effects = {}
    for index, name in enumerate(rows.names):
        here = rows.number == index
        effects[name] = parts.effect(
            int(here.sum()), fitted.rows[index], fitted.errors[index], centres[index] - level,
            level + rows.terms[here].mean(axis=0) @ fitted.effects, scale[index], residuals[here], logs[index],
            rows.failed[index], known=True,
        )  # fmt: skip
    expected = rows.terms @ fitted.effects
    spread = (expected - expected.mean(axis=0)).T @ (expected - expected.mean(axis=0)) / len(expected)
    # New rows lie further from an estimated distribution than the rows that it was estimated from.
    freedom = len(expected) - expected.shape[1] - sites - rows.terms.shape[1]
    predictive = whitening.covariance * len(expected) / max(freedom, len(expected) / 4)
    population = Population(level + expected.mean(axis=0), predictive, spread, shift_prior)
    population = population.tempered(rows.inputs, rows.number, effects, level + expected)
    return {
        "effects": fitted.effects, "level": level, "shared": parts, "population": population,
        "correlation": float(fitted.correlation.mean()), "sites": effects,
    }  # fmt: skip


def _scaled_fit(rows: _Rows, *, with_scale: bool) -> tuple[SiteFit, np.ndarray, VariancePrior, np.ndarray]:
    """Returns the regression on features over their site's scale, the (K, F) scales, their prior and residuals."""
    scale, weights = np.ones((len(rows.names), rows.inputs.shape[1])), ~rows.failed * np.bincount(rows.number)[:, None]
    for _ in range(_ROUNDS):
        fitted = fit_sites(rows.terms, rows.number, rows.person, rows.inputs / scale[rows.number])
        residuals = rows.inputs / scale[rows.number] - rows.terms @ fitted.effects
        for index in range(len(scale)):
            residuals[rows.number == index] -= residuals[rows.number == index].mean(axis=0)
        logs = log_variances(residuals, rows.number, len(scale)) + 2 * np.log(scale)
        logs = centred_over_sites(logs, np.where(fitted.rows[:, None] > 1, weights, 0))
        prior = VariancePrior.fit(logs, fitted.rows, residuals)
        if not with_scale:
            break
        shrunk = np.stack([prior.shrink(*one) for one in zip(logs, fitted.rows, strict=True)])
        before, scale = scale, np.exp(centred_over_sites(shrunk, np.bincount(rows.number)) / 2)
        residuals *= (before / scale)[rows.number]
    return fitted, scale, prior, residuals


def _choice(rows: _Rows, residuals: np.ndarray, method: str, given: float | None) -> CovarianceChoice:
    if method in ("location", "location_scale"):
        return NO_COVARIANCE
    if given is not None:
        return CovarianceChoice(bool(np.isfinite(given)), float(given))
    if method == "covariance":
        return CovarianceChoice(True, PRIOR_ROWS_A_FEATURE * residuals.shape[1])
    return choose_covariance(residuals, rows.number, rows.person)


def _centres(rows: _Rows, fitted: SiteFit, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (K, F) means of sites without the average scanner's effects of the terms, and the mean over rows."""
    means = np.stack([rows.terms[rows.number == index].mean(axis=0) for index in range(len(scale))]) @ fitted.effects
    centres = scale * (fitted.means + means) - means
    return centres, np.bincount(rows.number) @ centres / len(rows.number)


def new_effect(
    shared: SharedEstimates,
    inputs: np.ndarray,
    expected: np.ndarray,
    correlation: float,
    subject: np.ndarray | None,
    failed: np.ndarray | None,
    *,
    with_scale: bool,
) -> SiteEffect:
    """Returns the effect of a new site from (n, F) rows.

    Args:
      shared: what the known sites share.
      inputs: (n, F) features.
      expected: (n, F) features expected on the average scanner.
      correlation: correlation of two rows of a person. It is 0 if nothing in training showed it, and all rows of a
        person then count as one.
      subject: (n,) labels of persons, or None if every row is another person's.
      failed: (F,) bool, features that are not estimated, besides those with one value in all rows.
      with_scale: whether to estimate the scale.
    """
    counts = np.unique(np.arange(len(inputs)) if subject is None else np.asarray(subject), return_counts=True)[1]
    independent = float(np.sum(counts / (1 + (counts - 1) * (correlation or 1.0))))
    failed = _constant(inputs) if failed is None else _constant(inputs) | failed
    several = with_scale and len(inputs) > 1
    inputs = np.where(failed, expected, inputs)
    target, scale = expected.mean(axis=0), np.ones(inputs.shape[1])
    centred, slopes = inputs - inputs.mean(axis=0), expected - target
    for _ in range(_ROUNDS if several else 0):
        logs = _logs(centred / scale - slopes, np.diag(shared.whitening.covariance)) + 2 * np.log(scale)
        logs[failed] = logs[~failed].mean() if (~failed).any() else 0.0
        scale = np.exp(shared.scale_prior.shrink(logs, independent) / 2)
    residuals = centred / scale - slopes
    logs = _logs(shared.whitening.scores(residuals), np.ones(len(scale))) if several else np.zeros(len(scale))
    shift = inputs.mean(axis=0) - target
    error = np.full(len(shift), 1 / independent)
    return shared.effect(len(inputs), independent, error, shift, target, scale, residuals, logs, failed, known=False)


def _logs(residuals: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    freedom = len(residuals) - 1
    return log_ratio(np.sum(residuals**2, axis=0) / freedom, pooled, freedom)


def _constant(inputs: np.ndarray) -> np.ndarray:
    """Returns the (F,) features that have one value in all of at least two rows."""
    span = np.ptp(inputs, axis=0) <= 1e-9 * np.maximum(np.abs(inputs).max(axis=0), 1e-9)
    return span & (len(inputs) > 1)


def _filled(inputs: np.ndarray, failed: np.ndarray) -> np.ndarray:
    """Returns the features with failed values set to the mean of the others."""
    known = np.where(failed, 0.0, inputs).sum(axis=0) / np.maximum((~failed).sum(axis=0), 1)
    return np.where(failed, known, inputs)
