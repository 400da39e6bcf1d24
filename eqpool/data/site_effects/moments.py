"""Fits a linear model with a constant for each site to rows that are streamed twice and never held together."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from eqpool.data.site_effects.person_effects import (
    PersonDesign,
    PersonSums,
    person_weights,
    residuals_within,
    whole_people,
)

# Opens a stream of (rows, values): indices (n,) of the design's rows, and their values (n, F). Some rows may be absent.
OpenStream = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


class SiteModel(NamedTuple):
    """A fit of F features on terms and a constant for each of S sites, with a random effect of each person.

    Without repeated rows it is least squares, and the variance within a person is the whole variance about the fit.
    L is F if each feature has a ratio of variances of its own, and 1 if they share one or no person has several rows.

    Attributes:
      coefficients: (P, F) float64, coefficients of the P terms.
      constants: (S, F) float64, constant of each site.
      residual_squares: (S, F) float64, sum of squared residuals of each site's rows about the terms and constants.
      within_squares: (S, F) float64, the same about the persons' expected random effects too.
      rows: (S,) int64, number of rows of each site.
      ratio: (L,) float64, variance between persons over the variance within a person, 0 if no person has several rows.
      within_rows: (S, L) float64, `within_squares` that are expected, in units of the variance within a person.
      freedom: (S, L) float64, the same less what the site's constant takes. It is `rows` - 1 without repeated rows.
      information: (S, L) float64, information on a site's constant, given the others, in units of 1 / the variance
        within a person.
      independent: (S, L) float64, rows of different persons that the site's rows are worth.
    """

    coefficients: np.ndarray
    constants: np.ndarray
    residual_squares: np.ndarray
    within_squares: np.ndarray
    rows: np.ndarray
    ratio: np.ndarray
    within_rows: np.ndarray
    freedom: np.ndarray
    information: np.ndarray
    independent: np.ndarray

    @property
    def expected_squares(self) -> np.ndarray:
        """Returns the (S, L) `residual_squares` that are expected, in units of the variance of a row.

        They are `rows` - 1 without repeated rows. Those of one person say little of the variance between persons.
        """
        rows = self.rows[:, None]
        return rows - rows / self.independent


def fit_site_model(
    open_stream: OpenStream,
    terms: np.ndarray,
    site: np.ndarray,
    num_sites: int,
    subject: np.ndarray | None = None,
    *,
    shared_ratio: bool = False,
) -> SiteModel:
    """Fits the model in two passes over the stream.

    Repeated rows of a person share a random intercept. The ratio of variances is estimated by restricted maximum
    likelihood, and the coefficients by generalised least squares (`eqpool.data.site_effects.person_effects`).

    Memory grows with (P + S) F, with the size of a chunk and, if persons have several rows, with the different numbers
    of rows a person. It does not grow with the number of rows, provided that a stream has the rows of a person one
    after the other: those of persons of whom some are to come wait in memory.

    Args:
      open_stream: opens the stream. Both passes must yield the same values. Rows whose site is below 0 are ignored.
      terms: (N, P) float64 terms of all rows, such as covariates. Collinear terms share their effect.
      site: (N,) int, index of each row's site, or -1.
      num_sites: S.
      subject: (N,) labels of persons. None if every row is another person's.
      shared_ratio: whether all features share one ratio of variances, as neighbouring voxels do.

    Raises:
      ValueError: the stream lacks a row whose site is known, or repeats one.
    """
    used = np.flatnonzero(site >= 0)
    if subject is not None and len(np.unique(subject[used])) < len(used):
        persons = PersonDesign.of(_site_design(terms, site, used, num_sites), subject[used])
        return _fit_with_persons(open_stream, terms, site, used, persons, num_sites, shared_ratio)
    fitted = _least_squares(open_stream, site_solver(terms, site, num_sites), used)
    constants, coefficients = fitted[:num_sites], fitted[num_sites:]
    squares = np.zeros_like(constants)
    for rows, values in open_stream():
        for index in range(num_sites):
            here = site[rows] == index
            if here.any():
                residual = values[here] - terms[rows[here]] @ coefficients - constants[index]
                squares[index] += np.einsum("nf,nf->f", residual, residual)
    counts = np.bincount(site[used], minlength=num_sites)
    each = counts[:, None].astype(np.float64)
    return SiteModel(coefficients, constants, squares, squares, counts, np.zeros(1), each, each - 1, each, each)


def by_person(rows: np.ndarray, subject: np.ndarray | None) -> np.ndarray:
    """Returns the (n,) indices `rows` in an order in which the rows of a person follow each other, by their first row.

    `subject` are the (N,) labels of persons, None if every row is another person's.
    """
    if subject is None:
        return rows
    _, first, person = np.unique(subject[rows], return_index=True, return_inverse=True)
    return rows[np.argsort(first[person], kind="stable")]


def _least_squares(open_stream: OpenStream, solver: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Returns the (S + P, F) coefficients of the rows `used`, in one pass, with the matrix of `site_solver`."""
    fitted: np.ndarray | float = 0.0
    seen = np.zeros(solver.shape[1], np.int64)
    for rows, values in _noting(open_stream(), seen):
        fitted = fitted + solver[:, rows] @ np.asarray(values, np.float64)  # 0 for rows without a site
    _check_seen(seen, used)
    assert isinstance(fitted, np.ndarray)
    return fitted


def _fit_with_persons(
    open_stream: OpenStream,
    terms: np.ndarray,
    site: np.ndarray,
    used: np.ndarray,
    persons: PersonDesign,
    num_sites: int,
    shared_ratio: bool,
) -> SiteModel:
    person, place = np.full((2, len(site)), -1)
    person[used], place[used] = persons.person, np.arange(len(used))
    seen = np.zeros(len(site), np.int64)
    sums, origin = _sum_up(whole_people(_noting(open_stream(), seen), person), place, persons)
    _check_seen(seen, used)
    assert sums is not None
    ratio = sums.likeliest_ratio(shared_ratio)
    in_basis = sums.coefficients(ratio) + persons.basis.sum(axis=0)[:, None] * origin
    fitted = persons.solution @ in_basis
    constants, coefficients = fitted[:num_sites], fitted[num_sites:]
    weights = person_weights(persons.sizes, ratio)
    squares, within = np.zeros((2, *constants.shape))
    for rows, values in whole_people(open_stream(), person):
        residual = values - terms[rows] @ coefficients - constants[site[rows]]
        inner = residuals_within(residual, person[rows], weights[persons.size_of_row[place[rows]]])
        for index in np.unique(site[rows]):
            here = site[rows] == index
            squares[index] += np.einsum("nf,nf->f", residual[here], residual[here])
            within[index] += np.einsum("nf,nf->f", inner[here], inner[here])
    counts = np.bincount(site[used], minlength=num_sites)
    return SiteModel(
        coefficients, constants, squares, within, counts, ratio, *_worth(site[used], persons, ratio, num_sites)
    )


def _sum_up(
    stream: Iterable[tuple[np.ndarray, np.ndarray]], place: np.ndarray, persons: PersonDesign
) -> tuple[PersonSums | None, Any]:
    """Returns the sums over a stream's rows less the first row, and that row (F,); None for both if there is no row.

    `stream` has the rows of a person together, and `place` (N,) is a row's place in the design.
    """
    sums: PersonSums | None = None
    origin: Any = None
    for rows, values in stream:
        if sums is None:
            origin, sums = values[0], PersonSums(persons, values.shape[1])
        sums.add(place[rows], values - origin)  # so that the squares lose no digits
    return sums, origin


def _worth(
    site: np.ndarray, persons: PersonDesign, ratio: np.ndarray, num_sites: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns within_rows, freedom, information and independent, (S, L) each; see `SiteModel`."""
    weights = person_weights(persons.sizes, ratio)
    kept = 1 - persons.sizes[:, None] * weights  # share of a person's mean that is not taken for the random effect
    rows = _cross_table(site, persons.size_of_row, np.ones(len(site)), num_sites)
    within_rows = rows @ (1 - weights)
    freedom = within_rows - rows @ kept**2 / (rows @ kept)  # of a site's constant, if nobody was at another site
    pairs, first, here = np.unique(np.stack([site, persons.person]), axis=1, return_index=True, return_counts=True)
    together = _cross_table(pairs[0], persons.size_of_row[first], here**2, num_sites)
    information = rows.sum(axis=1, keepdims=True) - together @ weights
    several, kind = np.unique(here, return_inverse=True)
    people = _cross_table(pairs[0], kind, np.ones(len(kind)), num_sites)
    independent = people @ (several[:, None] * (1 + ratio) / (1 + several[:, None] * ratio))
    return within_rows, freedom, information, independent


def _cross_table(site: np.ndarray, column: np.ndarray, values: np.ndarray, num_sites: int) -> np.ndarray:
    """Returns the (S, columns) sums of (n,) values of the same site and column."""
    table = np.zeros((num_sites, int(column.max()) + 1))
    np.add.at(table, (site, column), values)
    return table


def _noting(
    stream: Iterable[tuple[np.ndarray, np.ndarray]], seen: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the stream, and counts in `seen` how often each row comes."""
    for rows, values in stream:
        np.add.at(seen, rows, 1)
        yield rows, values


def _check_seen(seen: np.ndarray, used: np.ndarray) -> None:
    wrong = np.flatnonzero(seen[used] != 1)
    if wrong.size:
        raise ValueError(f"the stream has row {used[wrong[0]]} {seen[used[wrong[0]]]} times, expected once")


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
    design = _site_design(terms, site, used, num_sites)
    solver = np.zeros((design.shape[1], len(site)))
    solver[:, used] = np.linalg.pinv(design)
    return solver


def _site_design(terms: np.ndarray, site: np.ndarray, used: np.ndarray, num_sites: int) -> np.ndarray:
    """Returns the (n, S + P) design of the rows `used`: 0-1 columns of the sites, then the terms."""
    member = (site[used, None] == np.arange(num_sites)[None]).astype(np.float64)
    return np.concatenate([member, terms[used]], axis=1)


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
