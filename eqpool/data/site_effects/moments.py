"""Fits a linear model with a constant for each site to rows that are streamed twice and never held together."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

# Opens a stream of (rows, values): indices (n,) of the design's rows, and their values (n, F). Some rows may be absent.
OpenStream = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


class SiteModel(NamedTuple):
    """A least-squares fit of F features on terms and a constant for each of S sites.

    Attributes:
      coefficients: (P, F) float64, coefficients of the P terms.
      constants: (S, F) float64, constant of each site.
      residual_squares: (S, F) float64, sum of squared residuals of each site's rows.
      rows: (S,) int64, number of rows of each site.
    """

    coefficients: np.ndarray
    constants: np.ndarray
    residual_squares: np.ndarray
    rows: np.ndarray


def fit_site_model(open_stream: OpenStream, terms: np.ndarray, site: np.ndarray, num_sites: int) -> SiteModel:
    """Fits the model in two passes over the stream.

    Memory grows with (P + S) F and with the size of a chunk, but not with the number of rows.

    Args:
      open_stream: opens the stream. Both passes must yield the same values. Rows whose site is below 0 are ignored.
      terms: (N, P) float64 terms of all rows, such as covariates. Collinear terms share their effect.
      site: (N,) int, index of each row's site, or -1.
      num_sites: S.

    Raises:
      ValueError: the stream lacks a row whose site is known, or repeats one.
    """
    used, solver = np.flatnonzero(site >= 0), site_solver(terms, site, num_sites)
    fitted: np.ndarray | float = 0.0
    seen = np.zeros(len(site), np.int64)
    for rows, values in open_stream():
        seen[rows] += 1
        fitted = fitted + solver[:, rows] @ np.asarray(values, np.float64)  # 0 for rows without a site
    wrong = np.flatnonzero(seen[used] != 1)
    if wrong.size:
        raise ValueError(f"the stream has row {used[wrong[0]]} {seen[used[wrong[0]]]} times, expected once")
    assert isinstance(fitted, np.ndarray)
    constants, coefficients = fitted[:num_sites], fitted[num_sites:]

    squares = np.zeros_like(constants)
    for rows, values in open_stream():
        for index in range(num_sites):
            here = site[rows] == index
            if here.any():
                residual = values[here] - terms[rows[here]] @ coefficients - constants[index]
                squares[index] += np.einsum("nf,nf->f", residual, residual)
    return SiteModel(coefficients, constants, squares, np.bincount(site[used], minlength=num_sites))


def site_index(site: np.ndarray, used: np.ndarray, reference: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted names (S,) of the used rows' sites, and the index (N,) of each row's site, -1 if not used.

    Args:
      site: (N,) names.
      used: (N,) bool, the rows to learn from.
      reference: name of the site whose rows stay as they are, "" for none.

    Raises:
      ValueError: no row is used, or none of the reference.
    """
    if not used.any():
        raise ValueError("site: no row with a known site to learn from, expected at least one")
    names, number = np.unique(np.asarray(site)[used].astype(np.str_), return_inverse=True)
    if reference and reference not in names:
        raise ValueError(f"reference: no row of {reference} to learn from, expected one of {', '.join(names)}")
    index = np.full(len(used), -1)
    index[used] = number
    return names, index


def site_solver(terms: np.ndarray, site: np.ndarray, num_sites: int) -> np.ndarray:
    """Returns the (S + P, N) matrix that maps values of the rows to the constants of S sites and P coefficients.

    It is the pseudoinverse of the design, with columns of 0 for rows whose site is below 0. The arguments are those of
    `fit_site_model`.
    """
    used = np.flatnonzero(site >= 0)
    member = (site[used, None] == np.arange(num_sites)[None]).astype(np.float64)
    design = np.concatenate([member, terms[used]], axis=1)
    solver = np.zeros((design.shape[1], len(site)))
    solver[:, used] = np.linalg.pinv(design)
    return solver


def centred_terms(covariates: np.ndarray, target: np.ndarray | None, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N, P) terms less their means over the used rows, 0 where unknown, and these means (P,)."""
    columns = np.zeros((len(covariates), 0)) if target is None else target
    terms = np.concatenate([covariates, columns], axis=1).astype(np.float64)
    known = [column[used & np.isfinite(column)] for column in terms.T]
    mean = np.array([values.mean() if values.size else 0.0 for values in known])
    return np.nan_to_num(terms - mean), mean


def terms_about(term_mean: np.ndarray, covariates: np.ndarray, target: np.ndarray | None) -> np.ndarray:
    """Returns the (n, P) terms of other rows less `term_mean`, 0 where unknown. Without a target its columns are 0."""
    absent = np.full((len(covariates), len(term_mean) - covariates.shape[1]), np.nan)
    terms = np.concatenate([covariates, absent if target is None else target], axis=1).astype(np.float64)
    return np.nan_to_num(terms - term_mean)
