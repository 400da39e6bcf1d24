"""Site terms that compare only rows with a partner: sub-sampling (SS) and random matching (RM),
Lokhande et al. 2022, section 4.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from eqpool.losses.kernels import Bandwidth, Kernel, of_squared_distances
from eqpool.losses.mmd import Estimator, SiteRows, global_bandwidths, rows_of_sites, weighted_mmd
from eqpool.ops.arguments import check_count, check_integers, check_shape
from eqpool.ops.numerics import AxisName, gather_rows, hashable, matmul, sum_over


def grouped_mmd(
    latent: ArrayLike,
    site: ArrayLike,
    group: ArrayLike,
    *,
    num_sites: int,
    num_groups: int,
    kernel: Kernel = "laplacian",
    bandwidth: Bandwidth = 1.0,
    estimator: Estimator = "biased",
    mask: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    """SS: the mean of `mmd` within each group (a decile of the covariate), over groups where two sites are present.

    Args:
      latent: (N, n).
      site: (N,) integers; negative ones are left out.
      group: (N,) integers in [0, num_groups).
      num_sites, num_groups: how many there are in all.
      kernel, bandwidth, estimator, mask, axis_name: as for `eqpool.mmd`.

    Returns:
      A scalar, float32 at least; 0 where no group has two sites, and NaN as `eqpool.mmd`.

    Raises:
      ValueError: as `eqpool.mmd`, or groups of another shape or dtype.
    """
    rows = rows_of_sites(latent, site, num_sites=num_sites, mask=mask, axis_name=axis_name)
    bandwidths = global_bandwidths(bandwidth, rows, axis_name)
    num_groups = check_count("num_groups", num_groups)
    member = jax.nn.one_hot(_checked_group(group, rows), num_groups, dtype=rows.weight.dtype)
    sums, present = weighted_mmd(
        rows.latent,
        member[:, :, None] * rows.weight[:, None],
        kernel=kernel,
        bandwidths=bandwidths,
        estimator=estimator,
        axis_name=axis_name,
    )
    compared = jnp.sum(present, axis=1) >= 2
    count = jnp.sum(compared, dtype=sums.dtype)
    return jnp.sum(jnp.where(compared, sums, 0)) / jnp.maximum(count, 1)


def matched_distance(
    latent: ArrayLike,
    site: ArrayLike,
    group: ArrayLike,
    *,
    num_sites: int,
    mask: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    """RM: the mean of |z_i - z_j|^2 over ordered pairs of two sites in one group (same decile and class).

    RandMatch draws one partner of each row at random; this is the expectation of that draw over the batch's partners.

    Args:
      latent: (N, n).
      site: (N,) integers; negative ones are left out.
      group: (N,) integers; rows match within equal ones.
      num_sites: how many there are in all.
      mask: (N,) booleans or 0-1; rows with 0 are dropped.
      axis_name: as for `eqpool.mmd`.

    Returns:
      A scalar, float32 at least; 0 where no row has a partner, and NaN where a row that counts is not finite.

    Raises:
      ValueError: shapes that do not go together, or sites or groups that are no integers.
    """
    rows = rows_of_sites(latent, site, num_sites=num_sites, mask=mask, axis_name=axis_name)
    group = _checked_group(group, rows)
    return _matched_distance(rows, group, axis_name=hashable(axis_name))


@partial(jax.jit, static_argnames="axis_name")  # as `geometry.so._expm`
def _matched_distance(rows: SiteRows, group: Array, *, axis_name: AxisName) -> Array:
    others, other_weight, other_group = gather_rows((rows.latent, rows.weight, group), axis_name)
    known = jnp.sum(rows.weight, axis=1)[:, None] * jnp.sum(other_weight, axis=1)[None]
    matched = jnp.where(group[:, None] == other_group[None], known, 0)
    pairs = matched * (1 - matmul(rows.weight, other_weight.T))
    total = of_squared_distances(lambda squared, _: jnp.sum(pairs * squared), rows.latent, others)
    total, count = sum_over((total, jnp.sum(pairs)), axis_name)
    # One factor after the other: the square of the scale may overflow where the total is 0.
    return total / jnp.maximum(count, 1) * rows.scale * rows.scale


def _checked_group(group: ArrayLike, rows: SiteRows) -> Array:
    group = jnp.asarray(group)
    check_shape("group", group, rows.weight.shape[:1], ", one entry for each row")
    check_integers("group", group)
    return group
