"""Site terms that compare only rows with a partner: sub-sampling (SS) and random matching (RM), paper A, section 4."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from eqpool.losses.kernels import Bandwidth, Kernel
from eqpool.losses.mmd import Estimator, global_bandwidths, site_weights, weighted_mmd
from eqpool.numerics import AxisName, gather_rows, matmul, sum_over


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
      A scalar, float32 at least; 0 where no group has two sites.

    Raises:
      ValueError: as `eqpool.mmd`.
    """
    latent, weight = site_weights(latent, site, num_sites=num_sites, mask=mask)
    bandwidths = global_bandwidths(bandwidth, latent, weight, axis_name)
    member = jax.nn.one_hot(jnp.asarray(group), num_groups, dtype=weight.dtype)
    sums, present = weighted_mmd(
        latent,
        member[:, :, None] * weight[:, None],
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
      A scalar, float32 at least; 0 where no row has a partner.

    Raises:
      ValueError: shapes that do not go together.
    """
    latent, weight = site_weights(latent, site, num_sites=num_sites, mask=mask)
    group = jnp.asarray(group)
    others, other_weight, other_group = gather_rows((latent, weight, group), axis_name)
    known = jnp.sum(weight, axis=1)[:, None] * jnp.sum(other_weight, axis=1)[None]
    matched = jnp.where(group[:, None] == other_group[None], known, 0)
    pairs = matched * (1 - matmul(weight, other_weight.T))
    squares = jnp.sum(jnp.square(latent), axis=1)[:, None] + jnp.sum(jnp.square(others), axis=1)[None]
    distances = jnp.maximum(squares - 2 * matmul(latent, others.T), 0)
    total, count = sum_over((jnp.sum(pairs * distances), jnp.sum(pairs)), axis_name)
    return total / jnp.maximum(count, 1)
