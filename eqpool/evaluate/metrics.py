"""Computes metrics of equivariance: Lokhande et al. 2022, appendix A.2, and docs/method.md, section 6."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from eqpool.evaluate.permutations import permute_rows
from eqpool.ops.arguments import check_count, check_positive, check_shape
from eqpool.ops.numerics import as_float, einsum, power_of_two_below
from eqpool.ops.rows import flat_rows, row_weight, zero_masked_rows

# level = floor(10 c) for c in [0, 1]: ten levels, and one for the largest covariate.
_LEVELS = 11


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
