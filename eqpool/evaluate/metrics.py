"""Computes metrics of equivariance and of the distance between sites.

The metrics follow Lokhande et al. 2022, appendix A.2, and docs/method.md, section 6.
"""

import warnings
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.evaluate.permutations import permute_rows, permute_subjects
from eqpool.losses.kernels import Bandwidth, Kernel, kernel_matrix
from eqpool.losses.weighted_mmd import Estimator, global_bandwidths, rows_of_sites, weighted_mmd
from eqpool.ops.arguments import check_count, check_integers, check_positive, check_shape
from eqpool.ops.finite import non_finite_rows
from eqpool.ops.numerics import as_float, einsum, power_of_two_below
from eqpool.ops.points import Points
from eqpool.ops.rows import flat_rows, row_weight, zero_masked_rows

# level = floor(10 c) for c in [0, 1]: ten levels, and one for the largest covariate.
_LEVELS = 11
# Columns of site weights that the permutation test processes in one pass over the kernel matrix.
_PERMUTED_COLUMNS = 512
# Rows from which the typical size of the kernel's values is estimated.
_SAMPLED_ROWS = 256


class TwoSampleTest(NamedTuple):
    """A statistic and its p-value, the probability under the null hypothesis of a statistic at least as large."""

    statistic: Array
    p_value: Array


def minmax_normalize(vectors: ArrayLike, *, axis: int = -1) -> Array:
    """Computes (z - min z) / (max z - min z) over the coordinates of each vector (Lokhande et al. 2022, eq. (10)).

    The result is 0 where all coordinates are equal, and NaN where a coordinate is not finite. It does not depend on the
    scale of the vector, which may be arbitrarily large or small.
    """
    vectors = as_float(vectors)
    scale = power_of_two_below(jax.lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=axis, keepdims=True, initial=0)))
    vectors = vectors / scale
    low = jnp.min(vectors, axis=axis, keepdims=True, initial=jnp.inf)
    high = jnp.max(vectors, axis=axis, keepdims=True, initial=-jnp.inf)
    span = high - low
    return jnp.where(jnp.isfinite(span), (vectors - low) / jnp.where(span == 0, 1, span), jnp.nan)


def equivariance_gap(
    vectors: ArrayLike, covariate: ArrayLike, *, maximum: ArrayLike | None = None, mask: ArrayLike | None = None
) -> Array:
    """Computes Delta_eq, the mean of |level_i - level_j| |t_i - t_j|^2 over ordered pairs i != j.

    The definition is Lokhande et al. 2022, eq. (8). The levels are floor(10 c / max c), clipped to 0..10, and t is
    min-max normalised over its own coordinates (eq. (10)). For rotations, the gap is computed for every column and
    averaged over the columns. Larger is better, but noise also increases the gap. Report `equivariance_gap_ratio`
    beside it.

    The pairs are summed exactly in O(N), from the count, the mean and the scatter of each level. All terms are
    nonnegative.

    Args:
      vectors: (N, n) latents, or (N, n, n) rotations tau.
      covariate: (N,) nonnegative covariate in its original unit.
      maximum: largest covariate of the data set. By default, the largest among the rows that are not masked out.
      mask: (N,) booleans or 0-1. Rows with 0 are dropped.

    Returns:
      A scalar of dtype float32 or wider. It is 0 with fewer than two unmasked rows, and NaN if the vector or the
      covariate of an unmasked row is not finite.

    Raises:
      ValueError: the shapes do not match, or `maximum` is not positive.
    """
    points, level, weight = _points_and_levels(vectors, covariate, maximum, mask)
    return _gap(points, level, weight)


def equivariance_gap_ratio(
    key: Array,
    vectors: ArrayLike,
    covariate: ArrayLike,
    *,
    num_permutations: int = 16,
    maximum: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Computes the ratio of Delta_eq to its mean over permuted covariates.

    The ratio is about 1 for noise, and 1.9 for a perfect tau on Adult.

    Args:
      key: random key of the permutations.
      vectors, covariate, maximum, mask: arguments of `equivariance_gap`.
      num_permutations: number of permutations that are averaged, at least 1.

    Returns:
      A scalar. It is NaN if the permuted gap is 0 (all vectors or all levels are equal), and if `equivariance_gap` is
      NaN.

    Raises:
      ValueError: `equivariance_gap` raises it, or `num_permutations` is below 1.
    """
    num_permutations = check_count("num_permutations", num_permutations)
    points, level, weight = _points_and_levels(vectors, covariate, maximum, mask)

    def permuted(key: Array) -> Array:
        return _gap(points, level[permute_rows(key, weight != 0)], weight)

    by_chance = jnp.mean(jax.lax.map(permuted, jax.random.split(key, num_permutations)))
    # If all vectors are equal, the gap is only the rounding error of their mean, and the ratio is undefined.
    rounding = jnp.finfo(points.dtype).eps * jnp.max(jnp.abs(points), initial=0)
    is_defined = by_chance > points.shape[1] * jnp.square(16 * rounding)
    return jnp.where(is_defined, _gap(points, level, weight) / jnp.where(is_defined, by_chance, 1), jnp.nan)


def mmd_permutation_test(
    key: Array,
    latent: ArrayLike,
    site: ArrayLike,
    *,
    num_sites: int,
    num_permutations: int = 999,
    kernel: Kernel = "laplacian",
    bandwidth: Bandwidth = 1.0,
    estimator: Estimator = "biased",
    mask: ArrayLike | None = None,
    subject: ArrayLike | None = None,
    stratum: ArrayLike | None = None,
    tile_size: int = 1024,
) -> TwoSampleTest:
    """Tests whether the latents of all sites have the same distribution, by permuting the sites and computing MMD^2.

    p = (1 + number of permutations with a statistic at least as large) / (1 + num_permutations). The test is exact at
    any sample size. Values that are equal up to rounding count as equal. Memory grows with N (tile_size + 512), never
    with N^2. Many permutations share one pass over the kernel matrix as one matrix product.

    Args:
      key: random key of the permutations.
      latent, site, num_sites, kernel, bandwidth, estimator, mask: arguments of `eqpool.mmd`.
      num_permutations: number of permutations, at least 1.
      subject: (N,) integers that identify the subject of each row. The rows of a subject who was scanned more than once
        are not independent. The test therefore exchanges the sites of whole subjects with as many rows, and permutes
        them among each subject's rows. `None` treats every row as a separate subject.
      stratum: (N,) integers, such as a diagnosis whose frequency differs between sites. Sites are permuted only within
        a stratum. A subject belongs to the largest stratum among its rows. `None` permutes among all rows.
      tile_size: number of rows of the kernel matrix that are in memory at once.

    Returns:
      `TwoSampleTest(statistic, p_value)`, both scalars. The statistic is that of `eqpool.mmd`. The p-value is NaN with
      fewer than two sites. For the unbiased estimator, only sites with at least two rows count. Both values are NaN if
      an unmasked row is not finite, and a RuntimeWarning names such rows.

    Raises:
      ValueError: `eqpool.mmd` raises it, `num_permutations` is below 1, or subjects or strata are not integers or do
        not have the shape of the sites.
    """
    num_permutations = check_count("num_permutations", num_permutations)
    tile_size = check_count("tile_size", tile_size)
    rows = rows_of_sites(latent, site, num_sites=num_sites, mask=mask)
    for name, given in (("subject", subject), ("stratum", stratum)):
        if given is not None:
            check_shape(name, jnp.asarray(given), rows.weight.shape[:1], ", one entry for each row")
            check_integers(name, jnp.asarray(given))
    _warn_of_non_finite("latent", latent, rows.weight)
    return _permutation_test(
        key,
        rows.latent,
        rows.weight,
        global_bandwidths(bandwidth, rows, None),
        None if subject is None else jnp.asarray(subject),
        None if stratum is None else jnp.asarray(stratum),
        num_permutations=num_permutations,
        kernel=kernel,
        estimator=estimator,
        tile_size=tile_size,
    )


@partial(jax.jit, static_argnames=("num_permutations", "kernel", "estimator", "tile_size"))
def _permutation_test(
    key: Array,
    latent: Points,
    weight: Array,
    bandwidths: Array,
    subject: Array | None,
    stratum: Array | None,
    *,
    num_permutations: int,
    kernel: Kernel,
    estimator: Estimator,
    tile_size: int,
) -> TwoSampleTest:
    counts = jnp.max(weight, axis=1) > 0

    def statistics(orders: Array) -> Array:
        """Returns MMD^2 for every row of `orders` (A, N). Row i takes the site of row `orders[a, i]`."""
        permuted = jnp.swapaxes(weight[orders], 0, 1)
        return weighted_mmd(
            latent, permuted, kernel=kernel, bandwidths=bandwidths, estimator=estimator, tile_size=tile_size
        )[0]

    def order(key: Array) -> Array:
        if subject is None:
            return permute_rows(key, counts, stratum)
        return permute_subjects(key, subject, counts, stratum)

    def permuted_statistics(keys: Array) -> Array:
        return statistics(jax.vmap(order)(keys))

    chunk = max(1, min(num_permutations, _PERMUTED_COLUMNS // weight.shape[1]))
    chunks = -(-num_permutations // chunk)
    keys = jax.random.split(key, chunks * chunk).reshape(chunks, chunk)
    null = jax.lax.map(permuted_statistics, keys).reshape(-1)[:num_permutations]
    observed = statistics(jnp.arange(len(weight))[None])[0]
    least = 1 if estimator == "biased" else 2
    compares = jnp.sum(jnp.sum(weight, axis=0) >= least) >= 2
    # A permutation that only renames sites changes the statistic by rounding errors, since the order of sums differs.
    rounding = 1e-6 * _typical_kernel(latent, kernel, bandwidths) + 1e-5 * jnp.abs(observed)
    at_least = jnp.sum(null >= observed - rounding, dtype=observed.dtype)
    p_value = (1 + at_least) / (1 + num_permutations)
    return TwoSampleTest(observed, jnp.where(compares & jnp.isfinite(observed), p_value, jnp.nan))


def _typical_kernel(latent: Points, kernel: Kernel, bandwidths: Array) -> Array:
    """Returns the mean of |k - k(0)| over a sample of rows, which sets the scale of the statistic's rounding errors."""
    some = jax.tree.map(lambda x: x[:: max(1, x.shape[0] // _SAMPLED_ROWS)], latent)
    return jnp.mean(jnp.abs(kernel_matrix(some, some, kernel=kernel, bandwidths=bandwidths)))


def _warn_of_non_finite(name: str, values: ArrayLike, weight: Array) -> None:
    """Warns of unmasked rows that are not finite. Does nothing if `values` or `weight` is a tracer."""
    if isinstance(values, jax.core.Tracer) or isinstance(weight, jax.core.Tracer):
        return
    counted = np.asarray(weight).any(axis=1).reshape(-1, 1)
    problem = non_finite_rows(name, np.where(counted, np.asarray(values, np.float32), 0))
    if problem:
        warnings.warn(f"{problem}: the statistic and its p-value are NaN", RuntimeWarning, stacklevel=3)


def _points_and_levels(
    vectors: ArrayLike, covariate: ArrayLike, maximum: ArrayLike | None, mask: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Returns normalised points (N, d), levels (N,) and weights (N,).

    Squared distances between points of rotations are averages over the columns.
    """
    vectors = as_float(vectors)
    axes = ("N", "n", "m") if vectors.ndim == 3 else ("N", "n")
    check_shape("vectors", vectors, axes, " or (N, n, n)" * (vectors.ndim != 3))
    covariate = as_float(covariate).astype(vectors.dtype)
    check_shape("covariate", covariate, vectors.shape[:1], ", one for each vector")
    if maximum is not None:
        check_positive("maximum", maximum)
    weight = row_weight(mask, vectors.shape[0], dtype=vectors.dtype)
    points = minmax_normalize(zero_masked_rows(vectors, weight), axis=1)
    if vectors.ndim == 3:
        points = flat_rows(points) / jnp.sqrt(jnp.asarray(vectors.shape[2], vectors.dtype))
    covariate = zero_masked_rows(covariate, weight)
    largest = jnp.max(covariate, initial=0) if maximum is None else jnp.asarray(maximum, covariate.dtype)
    level = jnp.floor(10 * covariate / jnp.where(largest > 0, largest, 1))
    # Conversion to an integer would turn NaN into an ordinary level. The points of such rows are set to NaN instead.
    points = jnp.where(jnp.isfinite(covariate)[:, None], points, jnp.nan)
    return points, jnp.clip(level, 0, _LEVELS - 1).astype(jnp.int32), weight


def _gap(points: Array, level: Array, weight: Array) -> Array:
    """Returns the mean over ordered pairs of |level_i - level_j| |points_i - points_j|^2.

    The squared distances between the points of levels a and b sum to n_b s_a + n_a s_b + n_a n_b |m_a - m_b|^2. Here n
    is the count of a level, m its mean and s the scatter about the mean.
    """
    member = jax.nn.one_hot(level, _LEVELS, dtype=points.dtype) * weight[:, None]
    count = jnp.sum(member, axis=0)
    mean = einsum("il,id->ld", member, points) / jnp.maximum(count, 1)[:, None]
    scatter = einsum("il,i->l", member, jnp.sum(jnp.square(points - mean[level]), axis=1))
    between = jnp.sum(jnp.square(mean[:, None] - mean[None]), axis=-1)
    mixed = count[None] * scatter[:, None]
    sums = mixed + mixed.T + count[:, None] * count[None] * between
    steps = jnp.abs(jnp.arange(_LEVELS)[:, None] - jnp.arange(_LEVELS)[None]).astype(points.dtype)
    rows = jnp.sum(count)
    return jnp.sum(steps * sums) / jnp.maximum(rows * (rows - 1), 1)
