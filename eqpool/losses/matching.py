"""Site terms that compare only rows with a partner: sub-sampling (SS) and random matching (RM).

Both are baselines of Lokhande et al. 2022, section 4.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from eqpool.losses.kernels import Bandwidth, Kernel, of_squared_distances
from eqpool.losses.weighted_mmd import Estimator, SiteRows, global_bandwidths, rows_of_sites, weighted_mmd
from eqpool.ops.arguments import check_count, check_integers, check_shape
from eqpool.ops.devices import AxisName, gather_rows, hashable, sum_over
from eqpool.ops.numerics import matmul


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
    """Computes the SS term: `mmd` within each group, averaged over the groups in which two sites are present.

    A group holds the rows of one decile of the covariate.

    Args:
      latent: (N, n).
      site: (N,) integers. Rows with a negative site are dropped.
      group: (N,) integers in [0, num_groups).
      num_sites, num_groups: numbers of sites and groups of the data set.
      kernel, bandwidth, estimator, mask, axis_name: as for `eqpool.mmd`.

    Returns:
      A scalar, float32 at least. It is 0 if no group has two sites, and NaN where `eqpool.mmd` is.

    Raises:
      ValueError: as for `eqpool.mmd`, or groups of another shape or dtype.
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
    """Computes the RM term: the mean of |z_i - z_j|^2 over ordered pairs of rows of two sites in the same group.

    A group holds the rows of one decile and class. RandMatch draws one partner of each row at random. This value is the
    expectation of that draw over the partners in the batch.

    Args:
      latent: (N, n).
      site: (N,) integers. Rows with a negative site are dropped.
      group: (N,) integers. Rows match within equal groups.
      num_sites: number of sites of the data set.
      mask: (N,) booleans or 0-1. Rows with 0 are dropped.
      axis_name: as for `eqpool.mmd`.

    Returns:
      A scalar, float32 at least. It is 0 if no row has a partner, and NaN if a row that counts is not finite.

    Raises:
      ValueError: shapes that do not go together, or sites or groups that are not integers.
    """
    rows = rows_of_sites(latent, site, num_sites=num_sites, mask=mask, axis_name=axis_name)
    group = _checked_group(group, rows)
    return _matched_distance(rows, group, axis_name=hashable(axis_name))


# Under jit, because a loop outside of a jit is compiled anew at every call.
@partial(jax.jit, static_argnames="axis_name")
def _matched_distance(rows: SiteRows, group: Array, *, axis_name: AxisName) -> Array:
    others, other_weight, other_group = gather_rows((rows.latent, rows.weight, group), axis_name)
    known = jnp.sum(rows.weight, axis=1)[:, None] * jnp.sum(other_weight, axis=1)[None]
    matched = jnp.where(group[:, None] == other_group[None], known, 0)
    pairs = matched * (1 - matmul(rows.weight, other_weight.T))
    total = of_squared_distances(lambda squared, _: jnp.sum(pairs * squared), rows.latent, others)
    total, count = sum_over((total, jnp.sum(pairs)), axis_name)
    # The factors are applied one after the other, because the square of the scale may overflow where the total is 0.
    return total / jnp.maximum(count, 1) * rows.scale * rows.scale


def _checked_group(group: ArrayLike, rows: SiteRows) -> Array:
    group = jnp.asarray(group)
    check_shape("group", group, rows.weight.shape[:1], ", one entry for each row")
    check_integers("group", group)
    return group
