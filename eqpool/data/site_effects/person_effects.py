"""Fits linear models with a random intercept for each person by restricted maximum likelihood, from sums over rows.

With lambda the variance between persons over the variance within a person, the n rows of a person have the covariance
I + lambda 11' in units of the latter. Its inverse is I - w 11' with w = lambda / (1 + n lambda) (Laird and Ware 1982).
Hence all that the estimates need of the rows are sums over rows, and over persons with the same number of rows.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import scipy.sparse

_LARGEST_RATIO = 1e4  # of the variance between persons to the variance within a person
_GRID = 256  # ratios that are tried, between which a parabola interpolates
_MOST_FEATURES = 20_000  # that a shared ratio is estimated from; neighbouring voxels show the same
_CONSTANT = 1e-12  # a feature with less of its squares left has no variance to divide


@dataclasses.dataclass(frozen=True)
class PersonDesign:
    """A design matrix whose N rows belong to persons.

    Attributes:
      basis: (N, R) float64, orthonormal basis of the columns.
      solution: (P, R) float64, matrix that turns coefficients of the basis into those of the P columns.
      person: (N,) int64, index of each row's person.
      counts: (M,) int64, number of rows of each person.
      sizes: (G,) int64, the different numbers of rows a person.
      products: (G, R, R) float64, sums over the persons of each size of the products of their summed rows of `basis`.
    """

    basis: np.ndarray
    solution: np.ndarray
    person: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, design: np.ndarray, person: np.ndarray) -> "PersonDesign":
        """Prepares an (N, P) design and the (N,) labels of persons. Collinear columns share their effect."""
        left, values, right = np.linalg.svd(design, full_matrices=False)
        kept = values > max(design.shape) * np.finfo(np.float64).eps * values.max(initial=0)
        basis, solution = left[:, kept], right[kept].T / values[kept]
        person, counts = np.unique(person, return_inverse=True, return_counts=True)[1:]
        sums, sizes = _sums(basis, person, len(counts)), np.unique(counts)
        products = np.stack([sums[counts == size].T @ sums[counts == size] for size in sizes])
        return cls(basis, solution, person, counts, sizes, products)

    @property
    def size_of_row(self) -> np.ndarray:
        """Returns the (N,) index in `sizes` of the size of each row's person."""
        return np.searchsorted(self.sizes, self.counts)[self.person]

    def information(self, ratio: np.ndarray) -> np.ndarray:
        """Returns the (K, R, R) information on the coefficients of `basis` in units of 1 / the variance in a person."""
        return np.eye(self.basis.shape[1]) - np.tensordot(person_weights(self.sizes, ratio).T, self.products, axes=1)


class PersonSums:
    """The sums over rows of F features that `PersonDesign` asks for. Memory does not depend on the number of rows."""

    def __init__(self, design: PersonDesign, features: int):
        """Starts with sums of 0."""
        rank, groups = design.basis.shape[1], len(design.sizes)
        self._design = design
        self._squares, self._projected = np.zeros(features), np.zeros((rank, features))
        self._group_squares = np.zeros((groups, features))
        self._group_projected = np.zeros((groups, rank, features))

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Adds the (n, F) values of the given rows, among which are all rows of each of their persons."""
        design = self._design
        self._squares += np.einsum("nf,nf->f", values, values)
        self._projected += design.basis[rows].T @ values
        present, local = np.unique(design.person[rows], return_inverse=True)
        sums, sums_of_basis = _sums(values, local, len(present)), _sums(design.basis[rows], local, len(present))
        for group, size in enumerate(design.sizes):
            here = design.counts[present] == size
            self._group_squares[group] += np.einsum("nf,nf->f", sums[here], sums[here])
            self._group_projected[group] += sums_of_basis[here].T @ sums[here]

    def likeliest_ratio(self, shared: bool) -> np.ndarray:
        """Returns the ratio of variances that maximises the restricted likelihood.

        Args:
          shared: whether all features share one ratio, at which the sum of their log likelihoods is largest.

        Returns:
          (1,) the shared ratio, or (F,) one for each feature. It is 0 for a feature without variance about the fit.
        """
        if shared and len(self._squares) > _MOST_FEATURES:
            return self._every(-(-len(self._squares) // _MOST_FEATURES)).likeliest_ratio(shared)
        varies = self._solve(np.zeros(1))[2] > _CONSTANT * self._squares
        grid = np.linspace(0, np.log1p(_LARGEST_RATIO), _GRID)
        scores = np.stack([np.where(varies, self._score(np.expm1(np.array([one]))), 0.0) for one in grid])
        return np.expm1(_minimisers(grid, scores.sum(axis=1, keepdims=True) if shared else scores))

    def coefficients(self, ratio: np.ndarray) -> np.ndarray:
        """Returns the (R, F) coefficients of `PersonDesign.basis` by generalised least squares, given the ratios."""
        return self._solve(ratio)[1]

    def _solve(self, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the (K, R, R) information, the (R, F) coefficients and the (F,) weighted residual squares."""
        weights = person_weights(self._design.sizes, ratio)
        information = self._design.information(ratio)
        right = self._projected - np.einsum("gf,grf->rf", _over(weights, self._squares), self._group_projected)
        stacked = right[None] if len(ratio) == 1 else right.T[:, :, None]
        solved = np.linalg.solve(information, stacked)
        coefficients = solved[0] if len(ratio) == 1 else solved[:, :, 0].T
        left = self._squares - np.einsum("gf,gf->f", _over(weights, self._squares), self._group_squares)
        squares = left - np.einsum("rf,rf->f", right, coefficients)
        return information, coefficients, np.maximum(squares, 1e-14 * self._squares + 1e-300)

    def _every(self, step: int) -> "PersonSums":
        """Returns the sums of every `step`-th feature."""
        taken = PersonSums(self._design, 0)
        for name in ("_squares", "_projected", "_group_squares", "_group_projected"):
            setattr(taken, name, getattr(self, name)[..., ::step])
        return taken

    def _score(self, ratio: np.ndarray) -> np.ndarray:
        """Returns (F,) twice the negative restricted log likelihood, profiled over the variance within a person."""
        information, _, squares = self._solve(ratio)
        sizes, people = np.unique(self._design.counts, return_counts=True)
        volume = people @ np.log1p(sizes[:, None] * ratio) + np.linalg.slogdet(information)[1]
        freedom = len(self._design.person) - self._design.basis.shape[1]
        return volume + max(freedom, 1) * np.log(squares)


def person_weights(sizes: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Returns w = lambda / (1 + n lambda) of persons with `sizes` (G,) rows at K ratios lambda, (G, K)."""
    return ratio / (1 + sizes[:, None] * ratio)


def whole_people(
    stream: Iterable[tuple[np.ndarray, np.ndarray]], person: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields a stream's (rows, values) in which all rows of a person come together.

    What waits in memory are the rows of persons of whom some are still to come. Few wait if a stream has the rows of a
    person one after the other.

    Args:
      stream: chunks of (rows (n,), values (n, F)).
      person: (N,) int, index of each row's person, below 0 for rows to leave out.
    """
    counts = np.bincount(person[person >= 0])
    seen = np.zeros(len(counts), np.int64)
    waiting: tuple[np.ndarray, np.ndarray] | None = None
    for given, values in stream:
        rows, values = given[person[given] >= 0], np.asarray(values)[person[given] >= 0]
        np.add.at(seen, person[rows], 1)
        if waiting is not None:
            rows, values = np.concatenate([waiting[0], rows]), np.concatenate([waiting[1], values])
        complete = seen[person[rows]] == counts[person[rows]]
        waiting = None if complete.all() else (rows[~complete], values[~complete])
        if complete.any():
            yield rows[complete], values[complete].astype(np.float64)


def residuals_within(residuals: np.ndarray, person: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns (n, F) residuals less the expected random effect of each row's person, given the person's rows.

    Args:
      residuals: (n, F) residuals of the fixed effects, with all rows of each person.
      person: (n,) labels of persons.
      weights: (n, K) weights w of the rows.
    """
    present, local = np.unique(person, return_inverse=True)
    return residuals - weights * _sums(residuals, local, len(present))[local]


def _over(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    return np.broadcast_to(weights, (len(weights), len(features)))


def _sums(values: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Returns the (count, F) sums of (n, F) values with the same index."""
    member = scipy.sparse.csr_array((np.ones(len(index)), (index, np.arange(len(index)))), shape=(count, len(index)))
    return np.asarray(member @ values)


def _minimisers(grid: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns the (K,) numbers at which (T, K) scores on an even grid are least, by a parabola about the least one."""
    best = scores.argmin(axis=0)
    column, inner = np.arange(scores.shape[1]), np.clip(best, 1, len(grid) - 2)
    before, here, after = scores[inner - 1, column], scores[inner, column], scores[inner + 1, column]
    bend = before - 2 * here + after
    offset = np.clip((before - after) / (2 * np.where(bend > 0, bend, np.inf)), -1, 1)
    return np.where(best == inner, grid[inner] + offset * (grid[1] - grid[0]), grid[best])
