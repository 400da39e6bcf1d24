"""Maximum mean discrepancy across sites, plain and at equal covariates (Lokhande et al. 2022, eq. (1);
docs/method.md, section 5).
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.losses.kernels import (
    Bandwidth,
    Kernel,
    check_kernel,
    kernel_of,
    kernel_unit,
    of_squared_distances,
    resolve_bandwidths,
)
from eqpool.ops.arguments import check_count, check_integers, check_one_of, check_positive, check_shape
from eqpool.ops.numerics import (
    AxisName,
    Points,
    as_float,
    as_points,
    as_scaled_points,
    einsum,
    flat_rows,
    gather_rows,
    hashable,
    matmul,
    mean_over,
    row_weight,
    sum_over,
    sum_over_row_tiles,
    zero_masked_rows,
)

Estimator = Literal["biased", "unbiased"]

# Rows of the N x N kernel matrix kept at once.
TILE_SIZE = 2048


def mmd(
    latent: ArrayLike,
    site: ArrayLike,
    *,
    num_sites: int,
    kernel: Kernel = "laplacian",
    bandwidth: Bandwidth = 1.0,
    estimator: Estimator = "biased",
    mask: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    """Sum over the unordered pairs of sites in the batch of MMD^2 = |mean_k phi - mean_l phi|^2 in the kernel's space.

    With M[k, l] the mean of the kernel over rows of site k and rows of site l, and S sites present, the sum is
    (S - 1) tr M - sum_{k != l} M[k, l]. The unbiased estimator leaves k(x, x) out of M[k, k] and drops sites with fewer
    than two rows; it can be negative.

    Args:
      latent: (N, n); half precision is computed in float32.
      site: (N,) integers in [0, num_sites). Other values, such as -1 for an unknown site, drop the row.
      num_sites: sites of the data set; those without rows in the batch do not count.
      kernel: "laplacian", "gaussian" or "energy", see `kernels.kernel_matrix`.
      bandwidth: a number; a sequence, for the mean of the kernels; or "median", the median distance between the rows
        that count, taken as a constant.
      estimator: "biased" or "unbiased".
      mask: (N,) booleans or 0-1; rows with 0 are dropped, whatever they hold.
      axis_name: mapped axis or axes over whose devices the batch is spread; see `eqpool.losses` on gradients.

    Returns:
      A scalar, float32 at least; 0 if fewer than two sites are present, and NaN where a row that counts is not finite.
      Finite latents may have any scale and lie at any distance from the origin.

    Raises:
      ValueError: shapes that do not go together, `site` not integer, `num_sites` below 1, or another kernel, bandwidth
        or estimator.
    """
    rows = rows_of_sites(latent, site, num_sites=num_sites, mask=mask, axis_name=axis_name)
    bandwidths = global_bandwidths(bandwidth, rows, axis_name)
    value, _ = weighted_mmd(
        rows.latent,
        rows.weight[:, None],
        kernel=kernel,
        bandwidths=bandwidths,
        estimator=estimator,
        axis_name=axis_name,
    )
    return value[0]


def conditional_mmd(
    latent: ArrayLike,
    site: ArrayLike,
    covariate: ArrayLike,
    *,
    num_sites: int,
    covariate_bandwidth: float | ArrayLike = 0.1,
    anchors: int | ArrayLike | Literal["batch"] | None = None,
    minimum_rows: float = 1.0,
    kernel: Kernel = "laplacian",
    bandwidth: Bandwidth = 1.0,
    estimator: Estimator = "biased",
    mask: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    """The objective of Lokhande et al. 2022, eq. (1): the latents of two sites shall agree where their covariates do.

    Around an anchor a every row has the weight w_i(a) = exp(-sum_c (c_i - a)_c^2 / (2 h_c^2)), normalised within its
    site to omega_i(a). With M_a[k, l] = sum over i in k, j in l of omega_i omega_j k(x_i, x_j), the MMD^2 at a is
    M_a[k, k] + M_a[l, l] - 2 M_a[k, l]; the result is the sum of that over the pairs of sites present at a, averaged
    over the anchors where there is such a pair. A site is present at a if its w_i(a) add up to `minimum_rows`: the sum
    says how many rows are near, and Kish's effective sample size is at least as large. The unbiased estimator divides
    the sum over i != j by 1 - sum omega_i^2 and asks for at least 2.

    Args:
      latent, site, num_sites, kernel, bandwidth, estimator, mask, axis_name: as for `mmd`.
      covariate: (N,) or (N, C), scaled to [0, 1] on the training set.
      covariate_bandwidth: h, a positive number or (C,) of them, in units of the scaled covariate.
      anchors: a number of evenly spaced values in [0, 1], for one covariate; an array (A,) or (A, C); or "batch" for
        the covariates of the rows that count. By default 11 for one covariate, "batch" for several.
      minimum_rows: see above; a positive number.

    Returns:
      A scalar, float32 at least; 0 if no two sites meet at any anchor, and NaN where the latent or a covariate of a row
      that counts is not finite.

    Raises:
      ValueError: as `mmd`, covariates, bandwidths or anchors of other shapes, or a `covariate_bandwidth` or
        `minimum_rows` that is not positive.
    """
    check_positive("covariate_bandwidth", covariate_bandwidth, max_rank=1)
    check_positive("minimum_rows", minimum_rows)
    rows = rows_of_sites(latent, site, num_sites=num_sites, mask=mask, axis_name=axis_name)
    counts = jnp.max(rows.weight, axis=1, initial=0)
    covariate = zero_masked_rows(_as_columns("covariate", covariate, len(counts), counts.dtype), counts)
    covariate = jnp.where(jnp.isfinite(covariate), covariate, jnp.nan)  # an infinite one is near no anchor
    points, point_weight = _anchor_points(anchors, covariate, counts, axis_name)

    scale = jnp.asarray(covariate_bandwidth, covariate.dtype)
    if scale.ndim:
        check_shape("covariate_bandwidth", scale, (covariate.shape[1],))
    steps = (covariate[:, None] - points[None]) / jnp.broadcast_to(scale, (1, 1, covariate.shape[1]))
    closeness = jnp.exp(-jnp.sum(jnp.square(steps), axis=-1) / 2)

    value, present = weighted_mmd(
        rows.latent,
        closeness[..., None] * rows.weight[:, None],
        minimum=minimum_rows,
        kernel=kernel,
        bandwidths=global_bandwidths(bandwidth, rows, axis_name),
        estimator=estimator,
        axis_name=axis_name,
    )
    meets = jnp.where(jnp.sum(present, axis=1) >= 2, point_weight, 0)
    return jnp.sum(meets * value) / jnp.maximum(jnp.sum(meets), 1)


class SiteRows(NamedTuple):
    """Latents in the form that `weighted_mmd` reads, and whose they are.

    Attributes:
      latent: of N points, divided by `scale`, see `numerics.as_scaled_points`; dropped rows are 0.
      weight: (N, num_sites), the one-hot sites; dropped rows are 0.
      scale: a power of two.
    """

    latent: Points
    weight: Array
    scale: Array


def rows_of_sites(
    latent: ArrayLike,
    site: ArrayLike,
    *,
    num_sites: int,
    mask: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> SiteRows:
    """The rows of a batch with their sites; arguments as for `mmd`.

    Raises:
      ValueError: shapes that do not go together, `site` not integer, or `num_sites` below 1.
    """
    latent, site = as_float(latent), jnp.asarray(site)
    check_shape("latent", latent, ("N", "n"))
    check_shape("site", site, latent.shape[:1], ", one entry for each row")
    check_integers("site", site)
    num_sites = check_count("num_sites", num_sites)
    counts = row_weight(mask, latent.shape[0], dtype=latent.dtype)
    weight = jax.nn.one_hot(site, num_sites, dtype=latent.dtype) * counts[:, None]
    points, scale = as_scaled_points(latent, jnp.max(weight, axis=1), axis_name)
    return SiteRows(points, weight, scale)


def weighted_mmd(
    latent: Points | Array,
    weight: Array,
    *,
    kernel: Kernel,
    bandwidths: Array,
    estimator: Estimator,
    minimum: float = 1.0,
    tile_size: int = TILE_SIZE,
    axis_name: AxisName = None,
) -> tuple[Array, Array]:
    """The sum over pairs of sites of MMD^2 for A weightings of the same latents at once.

    Args:
      latent: of N points, as `rows_of_sites` makes it; or (N, n), near the origin and of order 1.
      weight: (N, A, S), not negative, 0 where a row is not of the site; need not be normalised.
      kernel: as for `mmd`.
      bandwidths: (B,), in the unit of `latent`.
      estimator: as for `mmd`.
      minimum: total weight from which on a site is present; the unbiased estimator asks for at least 2.
      tile_size: rows of the kernel matrix kept at once.
      axis_name: as for `mmd`.

    Returns:
      The sums (A,) and which sites are present (A, S).

    Raises:
      ValueError: another kernel or estimator.
    """
    check_kernel(kernel)
    check_one_of("estimator", estimator, ("biased", "unbiased"))
    return _weighted_mmd(
        as_points(latent),
        weight,
        bandwidths,
        jnp.asarray(minimum, weight.dtype),
        kernel=kernel,
        estimator=estimator,
        tile_size=tile_size,
        axis_name=hashable(axis_name),
    )


@partial(jax.jit, static_argnames=("kernel", "estimator", "tile_size", "axis_name"))  # as `geometry.so._expm`
def _weighted_mmd(
    latent: Points,
    weight: Array,
    bandwidths: Array,
    minimum: Array,
    *,
    kernel: Kernel,
    estimator: Estimator,
    tile_size: int,
    axis_name: AxisName,
) -> tuple[Array, Array]:
    total = sum_over(jnp.sum(weight, axis=0), axis_name)
    present = total >= (minimum if estimator == "biased" else jnp.maximum(minimum, 2))
    weight = weight * jnp.where(present, 1 / jnp.where(present, total, 1), 0)[None]
    gram = _site_gram(latent, weight, kernel, bandwidths, tile_size, axis_name)
    if estimator == "unbiased":
        own = sum_over(jnp.sum(jnp.square(weight), axis=0), axis_name)
        gram = _without_self_pairs(gram, own)
    trace = jnp.trace(gram, axis1=1, axis2=2)
    return jnp.sum(present, axis=1, dtype=gram.dtype) * trace - jnp.sum(gram, axis=(1, 2)), present


def _site_gram(
    latent: Points, weight: Array, kernel: Kernel, bandwidths: Array, tile_size: int, axis_name: AxisName
) -> Array:
    """M (A, S, S) = weight^T K weight for each of the A weightings, K the kernel less its value at 0.

    Rows of this device against columns of all.
    """
    columns, column_weight = gather_rows((latent, weight), axis_name)
    flat_weight = flat_rows(column_weight)

    def partial_gram(rows: tuple[Points, Array]) -> Array:
        latent, weight = rows

        def of_squared(squared: Array, unit: Array) -> Array:
            values = kernel_of(squared, kernel=kernel, bandwidths=bandwidths / unit)
            return einsum("ias,iat->ast", weight, matmul(values, flat_weight).reshape(weight.shape))

        return of_squared_distances(of_squared, latent, columns, unit=kernel_unit(kernel, bandwidths))

    return sum_over(sum_over_row_tiles(partial_gram, (latent, weight), tile_size=tile_size), axis_name)


def _without_self_pairs(gram: Array, own: Array) -> Array:
    """M with its diagonal averaged over i != j; `own` (A, S) is the sum of squared weights, the weight of i = j.

    The kernel is 0 at i = j, so that only the weights are left to divide by.
    """
    diagonal = jnp.diagonal(gram, axis1=1, axis2=2)
    # `own` is at most 1/2 where a site is present and 0 where it is not, so the division is safe.
    corrected = diagonal / (1 - own)
    return gram + (corrected - diagonal)[:, None] * jnp.eye(gram.shape[-1], dtype=gram.dtype)[None]


def global_bandwidths(bandwidth: Bandwidth, rows: SiteRows, axis_name: AxisName) -> Array:
    """The bandwidths (B,) in units of the rows' scale; "median" is that of the global batch's rows that count."""
    latent, weight = rows.latent, rows.weight
    if isinstance(bandwidth, str):
        latent, weight = gather_rows((jax.lax.stop_gradient(latent), weight), axis_name)
    return resolve_bandwidths(bandwidth, latent, jnp.max(weight, axis=1), rows.scale)


def _as_columns(name: str, values: ArrayLike, rows: int | None, dtype: jnp.dtype) -> Array:
    values = as_float(values).astype(dtype)
    size = "A" if rows is None else rows
    check_shape(name, values, (size, "C")[: max(1, values.ndim)], f" or ({size}, C)" * (values.ndim != 2))
    return values[:, None] if values.ndim == 1 else values


def _anchor_points(
    anchors: int | ArrayLike | Literal["batch"] | None, covariate: Array, counts: Array, axis_name: AxisName
) -> tuple[Array, Array]:
    """The anchors (A, C) and their weights (A,), 0 for anchors that stand at a dropped row."""
    dimension = covariate.shape[1]
    if anchors is None:
        anchors = 11 if dimension == 1 else "batch"
    if isinstance(anchors, str):
        if anchors != "batch":
            raise ValueError(f"anchors is {anchors!r}, expected a number, an array or 'batch'")
        # The mean of equal values: it tells shard_map that what follows is the same on all devices.
        return mean_over(gather_rows((jax.lax.stop_gradient(covariate), counts), axis_name), axis_name)
    if np.ndim(anchors) == 0:
        count = check_count("anchors", anchors)
        if dimension != 1:
            raise ValueError(f"anchors is {anchors} for {dimension} covariates, expected an array or 'batch'")
        points = jnp.linspace(0, 1, count, dtype=covariate.dtype)[:, None]
    else:
        points = _as_columns("anchors", anchors, None, covariate.dtype)
        check_shape("anchors", points, ("A", dimension), f" for {dimension} covariates")
    return points, jnp.ones(points.shape[:1], covariate.dtype)
