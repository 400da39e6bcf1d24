"""The rotation group SO(n): its Lie algebra, two maps onto the group, and the one-parameter group of a covariate.

A is a skew matrix and v its m = n(n-1)/2 coordinates. All functions accept any leading batch axes, and compute in
float32 at least and at HIGHEST precision. The inverse of a rotation is its transpose.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.geometry import planes as planes_
from eqpool.ops.arguments import check_count, check_one_of
from eqpool.ops.numerics import as_float, einsum, matmul

GroupMap = Literal["expm", "cayley"]


def skew(v: ArrayLike) -> Array:
    """Builds the skew matrix with coordinates `v`, its strict upper triangle row by row.

    Args:
      v: (..., m) with m = n(n-1)/2, n >= 2.

    Returns:
      (..., n, n).

    Raises:
      ValueError: m is not n(n-1)/2 for any n >= 2.
    """
    v = as_float(v)
    n = (1 + round(float(np.sqrt(1 + 8 * v.shape[-1])))) // 2 if v.ndim else 0
    if n < 2 or v.shape[-1] != n * (n - 1) // 2:
        raise ValueError(f"v has shape {v.shape}, expected (..., m) with m = n(n-1)/2 for some n >= 2")
    rows, columns = np.triu_indices(n, 1)
    upper = jnp.zeros((*v.shape[:-1], n, n), v.dtype).at[..., rows, columns].set(v, unique_indices=True)
    return upper - jnp.swapaxes(upper, -1, -2)


def coordinates(A: ArrayLike) -> Array:
    """Returns the strict upper triangle (..., m) of A (..., n, n), row by row. This is the inverse of `skew`.

    Raises:
      ValueError: A is not square or n < 2.
    """
    A = _square(A)
    rows, columns = np.triu_indices(A.shape[-1], 1)
    return A[..., rows, columns]


def cayley(A: ArrayLike) -> Array:
    """Computes the Cayley map (I - A/2)^-1 (I + A/2), a rotation that agrees with expm(A) to second order in A.

    The map rotates a plane of speed mu by 2 atan(mu / 2), which is always below pi. The form printed by Lokhande et al.
    2022, (I - A)(I + A)^-1, is cayley(-2A).

    With W = (I - A/2)^-1 the map is 2W - I and its derivative is W dA W. The forward pass needs one inverse and the
    backward pass two products, in forward and reverse mode and to any order. W is computed by elimination without
    pivoting, which is stable because the symmetric part of I - A/2 is I (docs/method.md, section 2). Elimination runs
    on vector units. A batched LAPACK solve does not, and can deadlock XLA's CPU thread pool for large batches.

    Args:
      A: (..., n, n), skew. Skewness is not checked. Other matrices may need pivoting.

    Returns:
      (..., n, n).

    Raises:
      ValueError: A is not square or n < 2.
    """
    A = _square(A)
    return 2 * _resolvent(A) - jnp.eye(A.shape[-1], dtype=A.dtype)[(None,) * (A.ndim - 2)]


def expm(A: ArrayLike) -> Array:
    """Computes the matrix exponential with a Taylor polynomial of degree 16 of A / 2^s and s squarings.

    The method uses matrix products only. jax.scipy.linalg.expm needs a batched solve, always squares 16 times under
    vmap, and scales too little for accuracy in float32 (error 4e-5 at 6 rad, n = 3). The result is NaN for a 1-norm
    above about 10^5.

    Args:
      A: (..., n, n).

    Returns:
      (..., n, n), a rotation if A is skew.

    Raises:
      ValueError: A is not square or n < 2.
    """
    return _expm(_square(A))


def generator(
    n: int, *, rotation_range: float | Sequence[float], spectrum: Literal["uniform", "paper"] = "uniform"
) -> np.ndarray:
    """Returns the Lie generator of the covariate, or one for each of several covariates (docs/method.md, section 2).

    Lokhande et al. 2022 use B = skew(1, ..., 1). Its planes rotate at very different speeds. The fastest one rotates by
    cot(pi / 2n) radians over the covariate range, which is 19.1 for n = 30 and more than a network can learn. The
    spectrum "uniform" keeps the planes of B and rotates all of them by `rotation_range`, so that the generator is
    `rotation_range` times the polar factor B (-B^2)^(-1/2). For odd n one direction stays fixed.

    Args:
      n: latent dimension, at least 2.
      rotation_range: radians over a covariate range of 1, or a sequence of C of them for C covariates. Plane p, in the
        order of decreasing speed in B, then belongs to covariate p mod C, so that the C generators commute.
      spectrum: "uniform", or "paper" for the speeds of B itself. With "paper" the values of `rotation_range` have no
        effect, but a sequence still distributes the planes over the covariates.

    Returns:
      (n, n), or (C, n, n) for a sequence, float64 in host memory.

    Raises:
      ValueError: n < 2, a range that is not a positive number, more covariates than planes, or an unknown `spectrum`.
    """
    ranges = np.atleast_1d(np.asarray(rotation_range, dtype=np.float64))
    n = check_count("n", n, least=2)
    if ranges.ndim != 1 or not np.all(np.isfinite(ranges) & (ranges > 0)):
        raise ValueError(f"rotation_range is {rotation_range}, expected a positive number or a sequence of them")
    if not 1 <= len(ranges) <= n // 2:
        raise ValueError(f"rotation_range names {len(ranges)} covariates, expected 1 to {n // 2}, the planes of n={n}")
    check_one_of("spectrum", spectrum, ("uniform", "paper"))
    upper = np.triu(np.ones((n, n)), 1)
    paper = planes_.invariant_planes(upper - upper.T)
    owner = np.arange(paper.num_planes) % len(ranges) == np.arange(len(ranges))[:, None]
    speeds = owner * (paper.speeds if spectrum == "paper" else ranges[:, None])
    matrices = planes_.assemble(paper._replace(speeds=speeds))
    return matrices[0] if np.ndim(rotation_range) == 0 else matrices


def relative_rotation(
    covariate_i: ArrayLike, covariate_j: ArrayLike, *, generator: ArrayLike, group_map: GroupMap = "expm"
) -> Array:
    """Computes G(i, j) = map((c_i - c_j) B), the rotation that should map tau_i to tau_j.

    This is the rotation of Lokhande et al. 2022, eq. (3).

    Args:
      covariate_i: (...,) for one generator or (..., C) for C of them, scaled to [0, 1] on the training set.
      covariate_j: as `covariate_i`.
      generator: (n, n) or (C, n, n), skew. It may be traced.
      group_map: "expm" or "cayley".

    Returns:
      (..., n, n).

    Raises:
      ValueError: shapes that do not go together, or an unknown `group_map`.
    """
    matrices = _square(generator)
    difference = as_float(covariate_i) - as_float(covariate_j)
    if matrices.ndim > 3 or (matrices.ndim == 3 and difference.shape[-1:] != matrices.shape[:1]):
        raise ValueError(
            f"covariate difference has shape {difference.shape} and generator {matrices.shape}, "
            "expected (...,) with (n, n), or (..., C) with (C, n, n)"
        )
    subscripts = "...,ij->...ij" if matrices.ndim == 2 else "...c,cij->...ij"
    return group_map_named(group_map)(einsum(subscripts, difference, matrices.astype(difference.dtype)))


def group_map_named(name: str) -> Callable[[ArrayLike], Array]:
    """Returns the function `expm` or `cayley` by its name.

    Raises:
      ValueError: unknown name.
    """
    check_one_of("group_map", name, ("expm", "cayley"))
    return expm if name == "expm" else cayley


def _square(A: ArrayLike) -> Array:
    A = as_float(A)
    if A.ndim < 2 or A.shape[-1] != A.shape[-2] or A.shape[-1] < 2:
        raise ValueError(f"A has shape {A.shape}, expected (..., n, n) with n >= 2")
    return A


@jax.jit  # because a loop outside of a jit is compiled anew at every call
def _expm(A: Array) -> Array:
    # The norm up to which the remainder |A|^17 / 17! is below the dtype's rounding. Each squaring doubles the error.
    largest = 2.5 if A.dtype == jnp.float32 else 0.75
    most_squarings = 16 if A.dtype == jnp.float32 else 18
    norm = jax.lax.stop_gradient(jnp.max(jnp.sum(jnp.abs(A), axis=-2), axis=-1))
    squarings = jnp.ceil(jnp.maximum(jnp.log2(norm / largest), 0))
    defined = squarings <= most_squarings  # false also for NaN
    squarings = jnp.where(defined, squarings, 0)[..., None, None]
    result = _taylor_exponential(A * jnp.exp2(-squarings))

    def square_where_due(result: Array, step: Array) -> tuple[Array, None]:
        due = step < squarings
        squared = jax.lax.cond(jnp.any(due), lambda r: matmul(r, r), lambda r: r, result)
        return jnp.where(due, squared, result), None

    result, _ = jax.lax.scan(square_where_due, result, jnp.arange(most_squarings, dtype=A.dtype))
    return jnp.where(defined[..., None, None], result, jnp.nan)


def _taylor_exponential(A: Array) -> Array:
    """Computes the sum of A^k / k! for k = 0..16 with six products (Paterson and Stockmeyer 1973)."""
    square = matmul(A, A)
    powers = (jnp.broadcast_to(jnp.eye(A.shape[-1], dtype=A.dtype), A.shape), A, square, matmul(square, A))
    fourth = matmul(square, square)
    result = fourth * (1 / math.factorial(16))
    for lowest in (12, 8, 4, 0):
        result = result + sum(power * (1 / math.factorial(lowest + k)) for k, power in enumerate(powers))
        result = matmul(result, fourth) if lowest else result
    return result


@jax.custom_jvp
def _resolvent(A: Array) -> Array:
    """Computes (I - A/2)^-1."""
    n = A.shape[-1]
    systems = (jnp.eye(n, dtype=A.dtype)[(None,) * (A.ndim - 2)] - A / 2).reshape(-1, n, n)
    return _inverse_in_tiles(systems).reshape(A.shape)


@_resolvent.defjvp
def _resolvent_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Calls the decorated function, so that a second derivative uses this rule again instead of the elimination.
    W = _resolvent(primals[0])
    # The backward products are with W^T. It is stored once as such, so that a CPU does not read W by columns twice.
    stored = jnp.swapaxes(jax.lax.optimization_barrier(jnp.swapaxes(W, -1, -2)), -1, -2)
    return W, matmul(matmul(stored, tangents[0]), stored) / 2


# Measured on two CPU cores for n = 30 and 64. 128 matrices stay in the cache. Above 16 rows, splitting into blocks is
# faster than eliminating the rows one by one.
_TILE = 128
_LARGEST_ELIMINATION = 16


@jax.jit  # for the same reason as `_expm`
def _inverse_in_tiles(M: Array) -> Array:
    count, n = M.shape[0], M.shape[-1]
    if count <= _TILE:
        return _inverse(M)
    whole = count // _TILE * _TILE
    inverse = jax.lax.map(_inverse, M[:whole].reshape(-1, _TILE, n, n)).reshape(whole, n, n)
    return inverse if whole == count else jnp.concatenate([inverse, _inverse(M[whole:])])


def _inverse(M: Array) -> Array:
    """Inverts matrices (b, n, n) by Schur complements, and by elimination for small blocks.

    The symmetric part of a Schur complement is at least that of M.
    """
    n = M.shape[-1]
    if n <= _LARGEST_ELIMINATION:
        return jnp.moveaxis(_gauss_jordan(jnp.moveaxis(M, 0, -1)), -1, 0)
    half = n // 2
    corner, right = M[:, :half, :half], M[:, :half, half:]
    below, last = M[:, half:, :half], M[:, half:, half:]
    corner_inverse = _inverse(corner)
    to_right = matmul(corner_inverse, right)
    # Products with the same left factor are computed together, because small ones cost more than their arithmetic.
    from_corner, correction = jnp.split(matmul(below, _beside(corner_inverse, to_right)), [half], axis=-1)
    schur_inverse = _inverse(last - correction)
    from_below = matmul(schur_inverse, from_corner)
    change, above = jnp.split(matmul(to_right, _beside(from_below, -schur_inverse)), [half], axis=-1)
    upper, lower = _beside(corner_inverse + change, above), _beside(-from_below, schur_inverse)
    return jnp.concatenate([upper, lower], axis=-2)


def _beside(left: Array, right: Array) -> Array:
    return jnp.concatenate([left, right], axis=-1)


def _gauss_jordan(M: Array) -> Array:
    """Inverts matrices (n, n, b) by in-place Gauss-Jordan elimination without pivoting.

    Each step is one pass over the batch.
    """
    index = jnp.arange(M.shape[0])

    def eliminate(k: Array, M: Array) -> Array:
        row, column = M[k], M[:, k]
        is_pivot = (index == k)[:, None]
        reciprocal = 1 / row[k][None]
        row = jnp.where(is_pivot, reciprocal, row * reciprocal)
        others = jnp.where(is_pivot[None], 0, M) - column[:, None] * row[None]
        return jnp.where(is_pivot[:, None], row[None], others)

    return jax.lax.fori_loop(0, M.shape[0], eliminate, M)
