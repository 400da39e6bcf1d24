"""Metrics of equivariance and of the distance between sites (Lokhande et al. 2022, appendix A.2; docs/method.md,
section 6).
"""

import warnings
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.losses.kernels import Bandwidth, Kernel, kernel_matrix
from eqpool.losses.mmd import Estimator, global_bandwidths, rows_of_sites, weighted_mmd
from eqpool.ops.arguments import check_count, check_integers, check_positive, check_shape
from eqpool.ops.finite import non_finite_rows
from eqpool.ops.numerics import Points, as_float, einsum, flat_rows, power_of_two_below, row_weight, zero_masked_rows

# i = floor(10 c) for c in [0, 1]: ten levels and the largest covariate itself.
_LEVELS = 11
# Columns of site weights that one pass over the kernel matrix serves in the permutation test.
_PERMUTED_COLUMNS = 512
# Rows that say how large a kernel's values are.
_SAMPLED_ROWS = 256


class TwoSampleTest(NamedTuple):
    """A statistic and the probability, under the null hypothesis, of one at least as large."""

    statistic: Array
    p_value: Array


def minmax_normalize(vectors: ArrayLike, *, axis: int = -1) -> Array:
    """(z - min z) / (max z - min z) over the coordinates of each vector (Lokhande et al. 2022, eq. (10)); 0 where all
    are equal.

    NaN where a coordinate is not finite. The result does not depend on the scale, which may be any.
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
    """Delta_eq (Lokhande et al. 2022, eq. (8)): the mean over ordered pairs i != j of |level_i - level_j|
    |t_i - t_j|^2.

    level = floor(10 c / max c), clipped to 0..10; t is min-max normalised over its own coordinates (eq. 10). For
    rotations every column is such a vector and the result is the mean over the columns. Larger is better, but noise is
    rewarded too: report `equivariance_gap_ratio` beside it.

    Rows of one level share its mean and scatter, so the pairs are summed exactly in O(N), by positive terms alone.

    Args:
      vectors: (N, n) latents, or (N, n, n) rotations tau.
      covariate: (N,) in its original unit, not negative.
      maximum: the largest covariate of the data set; by default of the rows that count.
      mask: (N,) booleans or 0-1; rows with 0 are dropped.

    Returns:
      A scalar, float32 at least; 0 if fewer than two rows count, and NaN where the vector or the covariate of a row
      that counts is not finite.

    Raises:
      ValueError: shapes that do not go together, or a `maximum` that is not positive.
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
    """Delta_eq over its mean at permuted covariates: about 1 for noise, 1.9 for a perfect tau on Adult.

    Args:
      key: of the permutations.
      vectors, covariate, maximum, mask: as for `equivariance_gap`.
      num_permutations: how many are averaged, at least 1.

    Returns:
      A scalar; NaN where the permuted gap is 0 (all vectors or all levels are equal), and as `equivariance_gap`.

    Raises:
      ValueError: as `equivariance_gap`, or fewer than one permutation.
    """
    num_permutations = check_count("num_permutations", num_permutations)
    points, level, weight = _points_and_levels(vectors, covariate, maximum, mask)

    def permuted(key: Array) -> Array:
        return _gap(points, level[permute_rows(key, weight != 0)], weight)

    by_chance = jnp.mean(jax.lax.map(permuted, jax.random.split(key, num_permutations)))
    # Of equal vectors the gap is the rounding of their mean, which no ratio should be made of.
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
    """Tests whether the latents of all sites have one distribution: MMD^2 against its values at permuted sites.

    p = (1 + number of permutations with a statistic at least as large) / (1 + num_permutations), exact at any sample
    size; values equal up to rounding count as equal. Memory grows with N (tile_size + 512), never with N^2, and many
    permutations share one pass over the kernel matrix as one matrix product.

    Args:
      key: of the permutations.
      latent, site, num_sites, kernel, bandwidth, estimator, mask: as for `eqpool.mmd`.
      num_permutations: at least 1.
      subject: (N,) integers, whose each row is, where people were scanned more than once: their rows are not
        independent, so whole people change places with those of as many rows, and their rows among themselves.
        None: each row is of its own.
      stratum: (N,) integers, such as a diagnosis that sites have in other shares: rows change places within one alone,
        people within the largest of their rows'. None: among all.
      tile_size: rows of the kernel matrix kept at once.

    Returns:
      `TwoSampleTest(statistic, p_value)`, scalars; the statistic is that of `eqpool.mmd`. The p-value is NaN where
      fewer than two sites are present, of two rows each for the unbiased estimator. Both are NaN where a row that
      counts is not finite, of which a RuntimeWarning names the rows.

    Raises:
      ValueError: as `eqpool.mmd`, fewer than one permutation, or subjects or strata that are no integers or of another
        shape than the sites.
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
        """MMD^2 for every row of `orders` (A, N), which say whose site each row gets."""
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
    # A permutation that only renames sites gives the same statistic up to the order of summation.
    rounding = 1e-6 * _typical_kernel(latent, kernel, bandwidths) + 1e-5 * jnp.abs(observed)
    at_least = jnp.sum(null >= observed - rounding, dtype=observed.dtype)
    p_value = (1 + at_least) / (1 + num_permutations)
    return TwoSampleTest(observed, jnp.where(compares & jnp.isfinite(observed), p_value, jnp.nan))


def _typical_kernel(latent: Points, kernel: Kernel, bandwidths: Array) -> Array:
    """The mean of |k - k(0)| among some rows: of the size of the numbers whose rounding is that of the statistic."""
    some = jax.tree.map(lambda x: x[:: max(1, x.shape[0] // _SAMPLED_ROWS)], latent)
    return jnp.mean(jnp.abs(kernel_matrix(some, some, kernel=kernel, bandwidths=bandwidths)))


def _warn_of_non_finite(name: str, values: ArrayLike, weight: Array) -> None:
    """Warns of rows that count and are not finite, where `values` and `weight` are no tracers."""
    if isinstance(values, jax.core.Tracer) or isinstance(weight, jax.core.Tracer):
        return
    counted = np.asarray(weight).any(axis=1).reshape(-1, 1)
    problem = non_finite_rows(name, np.where(counted, np.asarray(values, np.float32), 0))
    if problem:
        warnings.warn(f"{problem}: the statistic and its p-value are NaN", RuntimeWarning, stacklevel=3)


def permute_rows(key: Array, counts: Array, stratum: ArrayLike | None = None) -> Array:
    """Indices (N,) that permute the rows that count at random, and leave the others in place.

    Args:
      key: of the permutation.
      counts: (N,) booleans.
      stratum: (N,) integers, within each of which rows change places; None: among all.
    """
    # 31 random bits break nearly all ties; the others fall back on the order of the rows.
    draw = (jax.random.bits(key, counts.shape) >> 1).astype(jnp.int32)
    draw = jnp.where(counts, draw, jnp.iinfo(jnp.int32).max)
    strata = () if stratum is None else (jnp.asarray(stratum),)
    in_order, shuffled = (jnp.lexsort((by, *strata)) for by in (~counts, draw))
    return jnp.zeros_like(shuffled).at[in_order].set(shuffled, unique_indices=True)


def permute_subjects(key: Array, subject: Array, counts: Array, stratum: ArrayLike | None = None) -> Array:
    """Indices (N,) that let whole subjects change places at random with those of as many rows that count.

    Their rows change places among themselves as well: of a subject who was scanned at two sites either scan may as well
    have been the other's, and where all are such, nothing else tells the sites apart.

    Args:
      key: of the permutation.
      subject: (N,) integers.
      counts: (N,) booleans; the other rows stay in place.
      stratum: (N,) integers; subjects change places where the largest of their rows that count is the same.
    """
    row = jnp.arange(subject.size)
    _, of_row = jnp.unique(subject, return_inverse=True, size=subject.size)
    size = jnp.where(counts, jnp.zeros_like(row).at[of_row].add(counts)[of_row], 0)
    place = jnp.where(counts, jax.random.permutation(key, row)[of_row], 0)
    alike = [size]
    if stratum is not None:
        stratum = jnp.asarray(stratum)
        lowest = jnp.iinfo(stratum.dtype).min
        largest = jnp.full_like(stratum, lowest).at[of_row].max(jnp.where(counts, stratum, lowest))
        alike.append(jnp.where(counts, largest[of_row], lowest))
    within = jnp.where(counts, jax.random.permutation(jax.random.fold_in(key, 1), row), row)
    in_order = jnp.lexsort((row, jnp.where(counts, of_row, 0), *alike))
    shuffled = jnp.lexsort((within, place, *alike))
    return jnp.zeros_like(row).at[in_order].set(shuffled, unique_indices=True)


def _points_and_levels(
    vectors: ArrayLike, covariate: ArrayLike, maximum: ArrayLike | None, mask: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Normalised points (N, d) with pairs' squared distances averaged over columns, levels (N,), weights (N,)."""
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
    # As an integer NaN would be a level like another: its row is made unknown instead.
    points = jnp.where(jnp.isfinite(covariate)[:, None], points, jnp.nan)
    return points, jnp.clip(level, 0, _LEVELS - 1).astype(jnp.int32), weight


def _gap(points: Array, level: Array, weight: Array) -> Array:
    """Mean over ordered pairs of |level_i - level_j| |points_i - points_j|^2.

    Between levels a and b the squared distances add up to n_b s_a + n_a s_b + n_a n_b |m_a - m_b|^2, with the count n,
    the mean m and the scatter s about it.
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
