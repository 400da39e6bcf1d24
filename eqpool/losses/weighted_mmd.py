"""The sum of MMD^2 over pairs of sites for several weightings of the same latents at once, which `mmd` builds on."""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
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
from eqpool.ops.arguments import check_count, check_integers, check_one_of, check_shape
from eqpool.ops.devices import AxisName, gather_rows, hashable, sum_over
from eqpool.ops.numerics import as_float, einsum, matmul
from eqpool.ops.points import Points, as_points, as_scaled_points
from eqpool.ops.rows import flat_rows, row_weight, sum_over_row_tiles

Estimator = Literal["biased", "unbiased"]

# Rows of the N x N kernel matrix that are in memory at the same time.
TILE_SIZE = 2048


class SiteRows(NamedTuple):
    """Latents in the form that `weighted_mmd` reads, with their sites.

    Attributes:
      latent: N points, divided by `scale`, see `points.as_scaled_points`. Dropped rows are 0.
      weight: (N, num_sites) one-hot sites. Dropped rows are 0.
      scale: power of two.
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
    """Checks, masks and scales the rows of a batch. Arguments are those of `mmd`.

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
    minimum: float | Array = 1.0,
    tile_size: int = TILE_SIZE,
    axis_name: AxisName = None,
) -> tuple[Array, Array]:
    """Computes the sum over pairs of sites of MMD^2 for A weightings of the same latents at once.

    Args:
      latent: N points, as `rows_of_sites` returns them, or (N, n) near the origin and of order 1.
      weight: (N, A, S), not negative, not necessarily normalised, and 0 where a row is not from the site.
      kernel: as for `mmd`.
      bandwidths: (B,), in the unit of `latent`.
      estimator: as for `mmd`.
      minimum: least total weight of a site that is present. The unbiased estimator requires at least 2.
      tile_size: number of rows of the kernel matrix that are in memory at the same time.
      axis_name: as for `mmd`.

    Returns:
      The sums (A,) and, as booleans (A, S), the sites that are present.

    Raises:
      ValueError: unknown kernel or estimator.
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


# Under jit, because a loop outside of a jit is compiled anew at every call.
@partial(jax.jit, static_argnames=("kernel", "estimator", "tile_size", "axis_name"))
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
    """Computes M (A, S, S) = weight^T K weight for each of the A weightings, with K the kernel less its value at 0.

    Each device computes its own rows against the columns of all devices.
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
    """Returns M with its diagonal averaged over i != j. `own` (A, S) is the total weight of i = j.

    K is 0 at i = j, so the sum over i != j is already there and only its weight has to be corrected.
    """
    diagonal = jnp.diagonal(gram, axis1=1, axis2=2)
    # `own` is at most 1/2 where a site is present and 0 where it is not, so the division is safe.
    corrected = diagonal / (1 - own)
    return gram + (corrected - diagonal)[:, None] * jnp.eye(gram.shape[-1], dtype=gram.dtype)[None]


def global_bandwidths(bandwidth: Bandwidth, rows: SiteRows, axis_name: AxisName) -> Array:
    """Returns the bandwidths (B,) in units of the rows' scale. "median" is taken over the rows of all devices."""
    latent, weight = rows.latent, rows.weight
    if isinstance(bandwidth, str):
        latent, weight = gather_rows((jax.lax.stop_gradient(latent), weight), axis_name)
    return resolve_bandwidths(bandwidth, latent, jnp.max(weight, axis=1), rows.scale)
