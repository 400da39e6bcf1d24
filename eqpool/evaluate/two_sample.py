"""Permutation tests of whether the latents of all sites have the same distribution (docs/method.md, section 6)."""

import warnings
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.evaluate.permutations import permute_rows, permute_subjects
from eqpool.losses.kernels import Bandwidth, Kernel, kernel_matrix
from eqpool.losses.mmd import Nearness, everywhere, nearness_to_anchors
from eqpool.losses.weighted_mmd import Estimator, global_bandwidths, rows_of_sites, weighted_mmd
from eqpool.ops.arguments import check_count, check_integers, check_positive, check_shape
from eqpool.ops.finite import non_finite_rows
from eqpool.ops.points import Points

# Columns of weights that the test processes in one pass over the kernel matrix.
_PERMUTED_COLUMNS = 512
# Rows from which the typical size of the kernel's values is estimated.
_SAMPLED_ROWS = 256


class TwoSampleTest(NamedTuple):
    """A statistic and its distribution under the null hypothesis.

    Attributes:
      statistic: scalar.
      p_value: scalar, the probability under the null hypothesis of a statistic at least as large.
      null_mean: scalar, mean of the statistic under the null hypothesis.
    """

    statistic: Array
    p_value: Array
    null_mean: Array


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
    covariate: ArrayLike | None = None,
    covariate_bandwidth: float | ArrayLike = 0.1,
    anchors: int | ArrayLike | Literal["batch"] | None = None,
    minimum_rows: float = 1.0,
    tile_size: int = 1024,
) -> TwoSampleTest:
    """Tests whether the latents of all sites have the same distribution, by permuting the sites and computing MMD^2.

    With a covariate, the statistic is `eqpool.conditional_mmd`, which compares sites only at equal covariates. Give
    strata within which the covariate varies little too: sites are exchangeable only among rows of like covariates.

    p = (1 + number of permutations with a statistic at least as large) / (1 + num_permutations). The test is exact at
    any sample size. Values that are equal up to rounding count as equal. Memory grows with N times the tile size, 512,
    or the number of anchors times sites, and with N^2 only if anchors are "batch". Many permutations share one pass
    over the kernel matrix as one matrix product.

    Args:
      key: random key of the permutations.
      latent, site, num_sites, kernel, bandwidth, estimator, mask: arguments of `eqpool.mmd`.
      num_permutations: number of permutations, at least 1.
      subject: (N,) integers that identify the subject of each row. The rows of a subject who was scanned more than once
        are not independent. The test therefore exchanges the sites of whole subjects with as many rows, and permutes
        them among each subject's rows. `None` treats every row as a separate subject.
      stratum: (N,) integers, such as a diagnosis whose frequency differs between sites. Sites are permuted only within
        a stratum. A subject belongs to the largest stratum among its rows. `None` permutes among all rows.
      covariate, covariate_bandwidth, anchors, minimum_rows: arguments of `eqpool.conditional_mmd`. Without a covariate
        the statistic is that of `eqpool.mmd`.
      tile_size: number of rows of the kernel matrix that are in memory at once.

    Returns:
      `TwoSampleTest(statistic, p_value, null_mean)`, all scalars. The p-value is NaN with fewer than two sites, or with
      no two at the same anchor. For the unbiased estimator, only sites with at least two rows count. All values are NaN
      if an unmasked row is not finite, and a RuntimeWarning names such rows.

    Raises:
      ValueError: `eqpool.mmd` or `eqpool.conditional_mmd` raises it, `num_permutations` is below 1, or subjects or
        strata are not integers or do not have the shape of the sites.
    """
    num_permutations = check_count("num_permutations", num_permutations)
    tile_size = check_count("tile_size", tile_size)
    rows = rows_of_sites(latent, site, num_sites=num_sites, mask=mask)
    for name, given in (("subject", subject), ("stratum", stratum)):
        if given is not None:
            check_shape(name, jnp.asarray(given), rows.weight.shape[:1], ", one entry for each row")
            check_integers(name, jnp.asarray(given))
    check_positive("minimum_rows", minimum_rows)
    _warn_of_non_finite("latent", latent, rows.weight)
    counts = jnp.max(rows.weight, axis=1, initial=0)
    near = everywhere(counts)
    if covariate is not None:
        near = nearness_to_anchors(covariate, counts, covariate_bandwidth, anchors)
    return _permutation_test(
        key,
        rows.latent,
        rows.weight,
        global_bandwidths(bandwidth, rows, None),
        None if subject is None else jnp.asarray(subject),
        None if stratum is None else jnp.asarray(stratum),
        near,
        jnp.asarray(minimum_rows, counts.dtype),
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
    near: Nearness,
    minimum: Array,
    *,
    num_permutations: int,
    kernel: Kernel,
    estimator: Estimator,
    tile_size: int,
) -> TwoSampleTest:
    counts = jnp.max(weight, axis=1) > 0

    def statistics(orders: Array) -> tuple[Array, Array]:
        """Returns MMD^2 (P,) for every row of `orders` (P, N), and whether any sites are compared, (P,) bool.

        Row i takes the site of row `orders[p, i]` and keeps its covariate.
        """
        shape = (len(orders), len(near.weight))
        permuted = jnp.swapaxes(weight[orders], 0, 1)
        at_anchors = near.closeness[:, None, :, None] * permuted[:, :, None]
        value, present = weighted_mmd(
            latent,
            at_anchors.reshape(len(counts), shape[0] * shape[1], weight.shape[1]),
            kernel=kernel,
            bandwidths=bandwidths,
            estimator=estimator,
            minimum=minimum,
            tile_size=tile_size,
        )
        value, present = value.reshape(shape), present.reshape(*shape, -1)
        return near.mean(value, present), jnp.any(near.meets(present) > 0, axis=-1)

    def order(key: Array) -> Array:
        if subject is None:
            return permute_rows(key, counts, stratum)
        return permute_subjects(key, subject, counts, stratum)

    def permuted_statistics(keys: Array) -> Array:
        return statistics(jax.vmap(order)(keys))[0]

    chunk = max(1, min(num_permutations, _PERMUTED_COLUMNS // (weight.shape[1] * len(near.weight))))
    chunks = -(-num_permutations // chunk)
    keys = jax.random.split(key, chunks * chunk).reshape(chunks, chunk)
    null = jax.lax.map(permuted_statistics, keys).reshape(-1)[:num_permutations]
    (observed,), (compares,) = statistics(jnp.arange(len(weight))[None])
    # A permutation that only renames sites changes the statistic by rounding errors, since the order of sums differs.
    rounding = 1e-6 * _typical_kernel(latent, kernel, bandwidths) + 1e-5 * jnp.abs(observed)
    at_least = jnp.sum(null >= observed - rounding, dtype=observed.dtype)
    p_value = (1 + at_least) / (1 + num_permutations)
    p_value = jnp.where(compares & jnp.isfinite(observed), p_value, jnp.nan)
    return TwoSampleTest(observed, p_value, jnp.mean(null))


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
