"""Regresses features on covariates, target and sites, with a random effect of the person, in float64."""

import dataclasses

import numpy as np

from eqpool.data.site_effects.person_effects import PersonDesign, PersonSums


@dataclasses.dataclass(frozen=True)
class SiteFit:
    """The regression of features on terms and sites.

    Attributes:
      effects: (P, F) coefficients of the terms.
      means: (K, F) constants of the sites.
      errors: (K, F) sampling variances of the constants' differences from their mean, in units of the variance of a
        row.
      rows: (K,) numbers of independent rows, at the mean correlation.
      correlation: (F,) correlation of two rows of one person, 0 if nobody has two.
    """

    effects: np.ndarray
    means: np.ndarray
    errors: np.ndarray
    rows: np.ndarray
    correlation: np.ndarray


def fit_sites(terms: np.ndarray, number: np.ndarray, person: np.ndarray, inputs: np.ndarray) -> SiteFit:
    """Fits inputs = terms @ effects + means[site] + person + error by generalised least squares.

    The random effect of the person has a correlation of its own for each feature, by restricted maximum likelihood, so
    that people scanned at two sites count by their differences, and repeated rows do not count as independent.

    Args:
      terms: (N, P) columns.
      number: (N,) sites, 0 to K - 1.
      person: (N,) codes of the persons.
      inputs: (N, F) features.
    """
    rows, split = np.bincount(number), terms.shape[1]
    sites = (number[:, None] == np.arange(len(rows))).astype(np.float64)
    design = np.concatenate([terms, sites], axis=1)
    contrast = np.eye(len(rows)) - rows / rows.sum()
    if len(np.unique(person)) == len(person):
        coefficients = np.linalg.lstsq(design, inputs, rcond=None)[0]
        covariance = np.linalg.pinv(design.T @ design)[split:, split:]
        errors = np.diag(contrast @ covariance @ contrast.T)[:, None]
        correlation = np.zeros(inputs.shape[1])
    else:
        persons = PersonDesign.of(design, person)
        sums = PersonSums(persons, inputs.shape[1])
        sums.add(np.arange(len(inputs)), inputs)
        ratio = sums.likeliest_ratio(shared=False)
        coefficients, correlation = persons.solution @ sums.coefficients(ratio), ratio / (1 + ratio)
        contrasted = contrast @ persons.solution[split:]
        covariance = np.linalg.inv(persons.information(ratio))
        errors = np.einsum("kr,frs,ks->kf", contrasted, covariance, contrasted, optimize=True) * (1 - correlation)
    errors = np.broadcast_to(np.maximum(errors, 1e-12), (len(rows), inputs.shape[1]))
    independent = _independent(number, person, float(correlation.mean()))
    return SiteFit(coefficients[:split], coefficients[split:], errors, independent, correlation)


def _independent(number: np.ndarray, person: np.ndarray, correlation: float) -> np.ndarray:
    """Returns each site's number of independent rows, where n rows of a person are n / (1 + (n - 1) correlation)."""
    rows = np.zeros(number.max() + 1)
    pairs, counts = np.unique(np.stack([number, person]), axis=1, return_counts=True)
    np.add.at(rows, pairs[0], counts / (1 + (counts - 1) * correlation))
    return rows
