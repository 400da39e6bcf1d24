"""Maximum mean discrepancy across sites, plain and at equal covariates (Lokhande et al. 2022, eq. (1)).

The maths is in docs/method.md, section 5.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.losses.kernels import Bandwidth, Kernel
from eqpool.losses.weighted_mmd import Estimator, global_bandwidths, rows_of_sites, weighted_mmd
from eqpool.ops.arguments import check_count, check_integers, check_positive, check_shape
from eqpool.ops.devices import AxisName, gather_rows, mean_over, sum_over
from eqpool.ops.numerics import as_float
from eqpool.ops.rows import zero_masked_rows


def mmd(
    latent: ArrayLike,
    site: ArrayLike,
    *,
    num_sites: int,
    kernel: Kernel = "laplacian",
    bandwidth: Bandwidth = 1.0,
    estimator: Estimator = "biased",
    mask: ArrayLike | None = None,
    stratum: ArrayLike | None = None,
    num_strata: int = 1,
    axis_name: AxisName = None,
) -> Array:
    """Computes the sum over pairs of sites of MMD^2 = |mean_k phi - mean_l phi|^2 in the kernel's feature space.

    The sum runs over the unordered pairs of the S sites in the batch. With M[k, l] the mean of the kernel over rows of
    site k and rows of site l it is (S - 1) tr M - sum_{k != l} M[k, l]. The unbiased estimator leaves k(x, x) out of
    M[k, k] and drops sites with fewer than two rows. It can be negative.

    Args:
      latent: (N, n). Half precision is computed in float32.
      site: (N,) integers in [0, num_sites). Rows with other values, such as -1 for an unknown site, are dropped.
      num_sites: number of sites of the data set. Sites without rows in the batch do not count.
      kernel: "laplacian", "gaussian" or "energy", see `kernels.kernel_of`.
      bandwidth: a number, a sequence of numbers for the mean of their kernels, or "median" for the median distance
        between the rows that count, taken as a constant.
      estimator: "biased" or "unbiased".
      mask: (N,) booleans or 0-1. Rows with 0 are dropped, whatever values they hold.
      stratum: (N,) integers in [0, num_strata), such as a diagnosis whose frequency differs between sites. Sites are
        compared only within a stratum, and the result is the mean over the strata with two sites, weighted by their
        rows. Rows with other values are dropped. `None` compares all rows.
      num_strata: number of strata of the data set.
      axis_name: mapped axis or axes over whose devices the batch is spread, see `eqpool.losses` on gradients.

    Returns:
      A scalar, float32 at least. It is 0 if fewer than two sites are present, and NaN if a row that counts is not
      finite. Finite latents may have any scale and lie at any distance from the origin.

    Raises:
      ValueError: shapes that do not go together, `site` not integer, `num_sites` below 1, or an unknown kernel,
        bandwidth or estimator.
    """
    rows = rows_of_sites(latent, site, num_sites=num_sites, mask=mask, axis_name=axis_name)
    counts = jnp.max(rows.weight, axis=1, initial=0)
    near = everywhere(counts).within(stratum, num_strata, counts, axis_name)
    value, present = weighted_mmd(
        rows.latent,
        near.closeness[..., None] * rows.weight[:, None],
        kernel=kernel,
        bandwidths=global_bandwidths(bandwidth, rows, axis_name),
        estimator=estimator,
        axis_name=axis_name,
    )
    return near.mean(value, present)


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
    stratum: ArrayLike | None = None,
    num_strata: int = 1,
    axis_name: AxisName = None,
) -> Array:
    """Computes the MMD^2 between sites at equal covariates, the objective of Lokhande et al. 2022, eq. (1).

    Around an anchor a each row has the weight w_i(a) = exp(-sum_c (c_i - a)_c^2 / (2 h_c^2)), normalised within its
    site to omega_i(a). With M_a[k, l] = sum over i in k, j in l of omega_i omega_j k(x_i, x_j), the MMD^2 at a is
    M_a[k, k] + M_a[l, l] - 2 M_a[k, l]. The result is its sum over the pairs of sites present at a, averaged over the
    anchors with such a pair.

    A site is present at a if its w_i(a) add up to `minimum_rows`. This sum estimates the number of rows near a and is
    at most Kish's effective sample size. The unbiased estimator divides the sum over i != j by 1 - sum omega_i^2 and
    requires a total weight of at least 2.

    Args:
      latent, site, num_sites, kernel, bandwidth, estimator, mask, stratum, num_strata, axis_name: as for `mmd`.
      covariate: (N,) or (N, C), scaled to [0, 1] on the training set.
      covariate_bandwidth: h, a positive number or (C,) of them, in units of the scaled covariate.
      anchors: a number of evenly spaced values in [0, 1] for one covariate, an array (A,) or (A, C), or "batch" for
        the covariates of the rows that count. None is 11 for one covariate and "batch" for several.
      minimum_rows: positive number, the least total weight of a site that is present.

    Returns:
      A scalar, float32 at least. It is 0 if no two sites are present at the same anchor, and NaN if the latent or a
      covariate of a row that counts is not finite.

    Raises:
      ValueError: as for `mmd`, covariates, bandwidths or anchors of other shapes, or a `covariate_bandwidth` or
        `minimum_rows` that is not positive.
    """
    check_positive("minimum_rows", minimum_rows)
    rows = rows_of_sites(latent, site, num_sites=num_sites, mask=mask, axis_name=axis_name)
    counts = jnp.max(rows.weight, axis=1, initial=0)
    near = nearness_to_anchors(covariate, counts, covariate_bandwidth, anchors, axis_name)
    near = near.within(stratum, num_strata, counts, axis_name)
    value, present = weighted_mmd(
        rows.latent,
        near.closeness[..., None] * rows.weight[:, None],
        minimum=minimum_rows,
        kernel=kernel,
        bandwidths=global_bandwidths(bandwidth, rows, axis_name),
        estimator=estimator,
        axis_name=axis_name,
    )
    return near.mean(value, present)


class Nearness(NamedTuple):
    """How near rows are to anchors in the space of the covariates.

    Attributes:
      closeness: (N, A), w_i(a) of `conditional_mmd`.
      weight: (A,), in the mean over anchors, 0 for an anchor that does not count.
    """

    closeness: Array
    weight: Array

    def mean(self, value: Array, present: Array) -> Array:
        """Returns the mean of values (..., A) over the anchors at which two of the sites (..., A, S) are present."""
        meets = self.meets(present)
        return jnp.sum(meets * value, axis=-1) / jnp.maximum(jnp.sum(meets, axis=-1), 1)

    def meets(self, present: Array) -> Array:
        """Returns (..., A) weights of the anchors, 0 where fewer than two of the sites (..., A, S) are present."""
        return jnp.where(jnp.sum(present, axis=-1) >= 2, self.weight, 0)

    def within(
        self, stratum: ArrayLike | None, num_strata: int, counts: Array, axis_name: AxisName = None
    ) -> "Nearness":
        """Divides each anchor by stratum, see `mmd`. Strata weigh as many rows as they have; `counts` is (N,) 0-1.

        Raises:
          ValueError: strata that are not (N,) integers, or `num_strata` below 1.
        """
        if stratum is None:
            return self
        stratum = jnp.asarray(stratum)
        check_shape("stratum", stratum, counts.shape, ", one entry for each row")
        check_integers("stratum", stratum)
        member = jax.nn.one_hot(stratum, check_count("num_strata", num_strata), dtype=counts.dtype)
        rows = sum_over(jnp.sum(member * counts[:, None], axis=0), axis_name)
        closeness = self.closeness[:, :, None] * member[:, None]
        return Nearness(closeness.reshape(len(counts), -1), (self.weight[:, None] * rows[None]).ravel())


def everywhere(counts: Array) -> Nearness:
    """Returns a single anchor that all rows are equally near. `counts` is (N,)."""
    return Nearness(jnp.ones((len(counts), 1), counts.dtype), jnp.ones(1, counts.dtype))


def nearness_to_anchors(
    covariate: ArrayLike,
    counts: Array,
    covariate_bandwidth: float | ArrayLike,
    anchors: int | ArrayLike | Literal["batch"] | None,
    axis_name: AxisName = None,
) -> Nearness:
    """Computes the weights w_i(a) of `conditional_mmd`, whose arguments these are. `counts` (N,) is 0 for dropped rows.

    Raises:
      ValueError: covariates, bandwidths or anchors of other shapes, or a bandwidth that is not positive.
    """
    check_positive("covariate_bandwidth", covariate_bandwidth, max_rank=1)
    covariate = zero_masked_rows(_as_columns("covariate", covariate, len(counts), counts.dtype), counts)
    covariate = jnp.where(jnp.isfinite(covariate), covariate, jnp.nan)  # an infinite one would be near no anchor
    points, point_weight = _anchor_points(anchors, covariate, counts, axis_name)
    scale = jnp.asarray(covariate_bandwidth, covariate.dtype)
    if scale.ndim:
        check_shape("covariate_bandwidth", scale, (covariate.shape[1],))
    steps = (covariate[:, None] - points[None]) / jnp.broadcast_to(scale, (1, 1, covariate.shape[1]))
    return Nearness(jnp.exp(-jnp.sum(jnp.square(steps), axis=-1) / 2), point_weight)


def _as_columns(name: str, values: ArrayLike, rows: int | None, dtype: jnp.dtype) -> Array:
    """Returns `values`, (rows,) or (rows, C), as (rows, C) in `dtype`. `rows` None accepts any number of rows."""
    values = as_float(values).astype(dtype)
    size = "A" if rows is None else rows
    check_shape(name, values, (size, "C")[: max(1, values.ndim)], f" or ({size}, C)" * (values.ndim != 2))
    return values[:, None] if values.ndim == 1 else values


def _anchor_points(
    anchors: int | ArrayLike | Literal["batch"] | None, covariate: Array, counts: Array, axis_name: AxisName
) -> tuple[Array, Array]:
    """Returns the anchors (A, C) and their weights (A,), 0 for the anchor of a dropped row."""
    dimension = covariate.shape[1]
    if anchors is None:
        anchors = 11 if dimension == 1 else "batch"
    if isinstance(anchors, str):
        if anchors != "batch":
            raise ValueError(f"anchors is {anchors!r}, expected a number, an array or 'batch'")
        # The mean of equal values marks them, for shard_map, as equal on all devices.
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
