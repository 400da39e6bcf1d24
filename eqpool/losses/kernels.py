"""Kernels between latents and their bandwidths, for the maximum mean discrepancy (docs/method.md, section 5)."""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.ops.arguments import check_one_of, check_positive
from eqpool.ops.custom_rules import any_of_batch
from eqpool.ops.numerics import matmul, safe_norm, safe_sqrt
from eqpool.ops.points import Points, as_points

Kernel = Literal["laplacian", "gaussian", "energy"]
Bandwidth = float | Sequence[float] | Array | Literal["median"]

# The median distance is taken over this many rows. It is then within about 2% of the median over all rows. Sorting more
# is slow (on a CPU 0.2 s for 1024 rows, against 5 ms for the loss itself).
_MEDIAN_ROWS = 256
# Distances below the first number of bandwidths may be set to 0. Differences are clipped at the second.
_NEGLIGIBLE, _FARTHEST = 0.05, 1e15
# Squared distances within `_NEAR` roundings of 0 have lost digits. They are counted in a sample of rows.
_NEAR, _SAMPLED_ROWS = 1000, 256


def squared_distances(rows: Array | Points, columns: Array | Points) -> Array:
    """Computes |x_i - y_j|^2, (a, b), for rows (a, n) and columns (b, n).

    It is exactly 0, with gradient 0, where x_i = y_j. The squares must neither overflow nor underflow, which
    `points.as_scaled_points` ensures.
    """
    return of_squared_distances(lambda squared, unit: squared, as_points(rows), as_points(columns))


def of_squared_distances(
    function: Callable[[Array, Array], Array], rows: Points, columns: Points, *, unit: Array | None = None
) -> Array:
    """Computes function(squared distances (a, b), unit) for rows (a, n) and columns (b, n).

    The form |x|^2 + |y|^2 - 2 x.y is a matrix product. With its gradient it is forty times as fast as the sum of
    squared differences (N = 2048, n = 30, CPU). Its rounding error grows with the largest norm, so that it loses the
    distances within clusters that are far apart, or beside one distant row. In those cases differences are summed.

    Args:
      function: function of the squared distances and of their unit, a scalar. Its result should be small, such as a
        sum, since both forms may be computed.
      rows, columns: points of one shift and scale, see `points.as_scaled_points`. Rows of zeros are padding.
      unit: least distance that matters, such as a kernel's bandwidth. Differences are computed in this unit. A distance
        far below it may become 0, and one far above it may become shorter. None if all distances matter alike.

    Returns:
      The value of `function`.
    """
    one = jnp.ones((), rows.exact.dtype)

    @jax.checkpoint  # keeps no N x N array for the gradient, which the other branch would have to fill with zeros
    def by_differences(rows: Points, columns: Points) -> Array:
        squared = _by_differences(rows.exact, columns.exact, one if unit is None else unit)
        return function(squared, one if unit is None else unit)

    fast = function(_by_products(rows.centred, columns.centred), one)
    return _where_digits_are_lost(by_differences, fast, rows, columns, unit)


def _where_digits_are_lost(
    careful: Callable[[Points, Points], Array], fast: Array, rows: Points, columns: Points, unit: Array | None
) -> Array:
    """Returns careful(rows, columns) where products round off distances that matter, and otherwise `fast`.

    `fast` is computed from products.
    """
    fixed = jax.lax.stop_gradient((rows.centred, columns.centred))
    largest_row, largest_column = (jnp.max(jnp.sum(jnp.square(x), axis=1), initial=0) for x in fixed)
    largest = largest_row + largest_column
    negligible = jnp.zeros((), largest.dtype) if unit is None else jnp.square(_NEGLIGIBLE * jax.lax.stop_gradient(unit))

    def look_closer(rows: Points, columns: Points, fast: Array) -> Array:
        lossy = any_of_batch(_products_lose_digits(*fixed))
        return jax.lax.cond(lossy, lambda rows, columns, _: careful(rows, columns), _last, rows, columns, fast)

    may_be_lossy = any_of_batch(2 * jnp.finfo(largest.dtype).eps * largest > negligible)
    return jax.lax.cond(may_be_lossy, look_closer, _last, rows, columns, fast)


def _last(rows: Points, columns: Points, fast: Array) -> Array:
    return fast


def _by_products(rows: Array, columns: Array) -> Array:
    """Computes squared distances (a, b) with a matrix product. They are 0 below its rounding error."""
    squared, rounding = _products_and_rounding(rows, columns)
    # Below it the direction of a difference is noise, and so is the gradient of the norm. NaN stays NaN.
    return jnp.where(squared <= rounding, 0, squared)


def _products_and_rounding(rows: Array, columns: Array) -> tuple[Array, Array]:
    norms = jnp.sum(jnp.square(rows), axis=1)[:, None] + jnp.sum(jnp.square(columns), axis=1)[None]
    squared = norms - 2 * matmul(rows, columns.T)
    return squared, 2 * jnp.finfo(rows.dtype).eps * jax.lax.stop_gradient(norms)


def _by_differences(rows: Array, columns: Array, unit: Array) -> Array:
    """Computes squared distances (a, b) in `unit`, row by row to avoid an (a, b, n) array. Large ones are clipped."""

    def of_row(row: Array) -> Array:
        steps = jnp.clip((row[None] - columns) / unit, -_FARTHEST, _FARTHEST)
        return jnp.sum(jnp.square(steps), axis=1)

    return jax.lax.map(jax.checkpoint(of_row), rows)


def _products_lose_digits(rows: Array, columns: Array) -> Array:
    """Returns whether products round off distances, judged by a sample of the rows.

    A distance is rounded off if it is small beside the norms. Each row is near itself, so only near pairs in excess of
    the number of rows are such distances.
    """
    some = rows[:: max(1, -(-rows.shape[0] // _SAMPLED_ROWS))]
    squared, rounding = _products_and_rounding(some, columns)
    count_row, count_column = (jnp.any(x != 0, axis=1) for x in (some, columns))  # the other rows are padding
    near = (squared <= _NEAR * rounding) & count_row[:, None] & count_column[None]
    return jnp.sum(near) > jnp.sum(count_row)


def kernel_of(squared: Array, *, kernel: Kernel, bandwidths: Array) -> Array:
    """Computes k - k(0) at squared distances of any shape, with k the mean of the kernel over `bandwidths` (B,).

    With distance d and bandwidth p, the kernel is

        laplacian: exp(-d / p), as in the published code with p = 1;
        gaussian:  exp(-d^2 / (2 p^2));
        energy:    -d / p, whose MMD^2 is the energy distance over p.

    A constant added to a kernel changes no MMD. Subtracting k(0) = 1 keeps the digits of distances far below the
    bandwidth. The result is NaN where a distance or bandwidth is.
    """
    if kernel == "gaussian":
        # Kept finite, because the square of a bandwidth may underflow and 0 times infinity is NaN.
        largest = jnp.finfo(squared.dtype).max
        exponents = [squared * -jnp.minimum(0.5 / jnp.square(p), largest) for p in bandwidths]
    else:
        distance = safe_sqrt(squared)
        exponents = [-distance / p for p in bandwidths]
    values = exponents if kernel == "energy" else [jnp.expm1(exponent) for exponent in exponents]
    return sum(values[1:], values[0]) / len(values)


def kernel_unit(kernel: Kernel, bandwidths: Array) -> Array | None:
    """Returns the least distance that matters to the kernel, or None for the energy kernel, which has no scale."""
    return None if kernel == "energy" else jnp.min(bandwidths)


def kernel_matrix(rows: Array | Points, columns: Array | Points, *, kernel: Kernel, bandwidths: Array) -> Array:
    """Computes k(x_i, y_j) - k(0), (a, b), for rows (a, n) and columns (b, n); see `kernel_of`."""

    def of_squared(squared: Array, unit: Array) -> Array:
        return kernel_of(squared, kernel=kernel, bandwidths=bandwidths / unit)

    unit = kernel_unit(kernel, bandwidths)
    return of_squared_distances(of_squared, as_points(rows), as_points(columns), unit=unit)


def check_kernel(kernel: str) -> None:
    """Raises a ValueError unless `kernel` is known."""
    check_one_of("kernel", kernel, ("laplacian", "gaussian", "energy"))


def resolve_bandwidths(bandwidth: Bandwidth, latent: Array | Points, weight: Array, scale: ArrayLike = 1.0) -> Array:
    """Returns `bandwidth` as an array: one number, the numbers of a mixture, or the median distance between latents.

    Args:
      bandwidth: positive number, a sequence of them, or "median".
      latent: (N, n), divided by `scale`.
      weight: (N,), 0 on the rows to leave out of the median.
      scale: divisor of the latents, and of the result.

    Returns:
      (B,), in units of `scale`. A traced number that is not positive gives NaN.

    Raises:
      ValueError: unknown string, empty sequence, or a number that is not positive.
    """
    dtype = as_points(latent).exact.dtype
    scale = jnp.asarray(scale, dtype)
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise ValueError(f"bandwidth is {bandwidth!r}, expected a number, a sequence of numbers or 'median'")
        return median_distance(latent, weight, otherwise=1 / scale)[None]
    check_positive("bandwidth", bandwidth, max_rank=1)
    values = jnp.atleast_1d(jnp.asarray(bandwidth, dtype))
    limits = jnp.finfo(dtype)
    # Clipped, because a quotient that under- or overflows would give 0 / 0 for equal latents.
    return jnp.where(values > 0, jnp.clip(values / scale, limits.tiny, limits.max), jnp.nan)


def median_distance(latent: Array | Points, weight: Array, otherwise: ArrayLike = 1.0) -> Array:
    """Computes the median of |x_i - x_j| over pairs of rows that count, as a constant without gradient.

    If more than 256 rows count, the median is that of 256 evenly spaced ones. The result is `otherwise` where the
    median is 0 or no pair counts, and NaN where one of the used rows is not finite.
    """
    points = jax.lax.stop_gradient(as_points(latent))
    otherwise = jnp.asarray(otherwise, points.exact.dtype)
    return otherwise if len(weight) == 0 else _median_distance(points, weight, otherwise)


@jax.jit  # because a loop outside of a jit is compiled anew at every call
def _median_distance(points: Points, weight: Array, otherwise: Array) -> Array:
    count = jnp.sum(weight != 0)
    if len(weight) > _MEDIAN_ROWS:
        in_order = jnp.argsort(weight == 0, stable=True)
        chosen = jnp.arange(_MEDIAN_ROWS)
        chosen = jnp.where(count > _MEDIAN_ROWS, chosen * count // _MEDIAN_ROWS, chosen)
        points, weight = jax.tree.map(lambda x: x[in_order[chosen]], (points, weight))
    rows, columns = np.triu_indices(len(weight), 1)
    counts = (weight[rows] != 0) & (weight[columns] != 0)
    distances = _where_digits_are_lost(
        lambda x, y: jax.lax.map(lambda row: safe_norm(row[None] - y.exact), x.exact),
        safe_sqrt(_by_products(points.centred, points.centred)),
        points,
        points,
        None,
    )[rows, columns]
    # The appended entry keeps the array non-empty, and the index below in range, if no pair counts.
    ordered = jnp.append(jnp.sort(jnp.where(counts, distances, jnp.inf)), jnp.inf)
    pairs = jnp.sum(counts)
    median = (ordered[jnp.maximum(pairs - 1, 0) // 2] + ordered[pairs // 2]) / 2
    median = jnp.where((pairs > 0) & (median != 0), median, otherwise)
    # NaN sorts last and would not reach the median.
    return jnp.where(jnp.any(counts & jnp.isnan(distances)), jnp.nan, median)
