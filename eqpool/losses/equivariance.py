"""The equivariance loss of stage one: G(i, j) tau_i = tau_j (Lokhande et al. 2022, eq. (3)).

The maths is in docs/method.md, section 3.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.geometry import so
from eqpool.geometry.planes import InvariantPlanes
from eqpool.losses.plane_sums import checked_rotations, loss_of_rows, prepared_rows
from eqpool.ops.devices import AxisName
from eqpool.ops.numerics import as_float, einsum, matmul
from eqpool.ops.rows import row_weight, zero_masked_rows

# The least mean squared rotation that counts as turning, as a share of the one that the covariates require. And the
# number of roundings of an entry of tau, the result of several matrix products, that count as no rotation.
_LEAST_SHARE_TURNED, _ROUNDINGS = 0.01, 32
# Speeds below this share of the largest are rounding of a plane that does not rotate.
_SAME_SPEED = 1e-6


def equivariance_loss(
    tau: ArrayLike,
    covariate: ArrayLike,
    *,
    generator: ArrayLike,
    group_map: so.GroupMap = "expm",
    mask: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    """Computes the mean over pairs of |G(i,j) tau_i - tau_j|^2 + |G(i,j)^-1 tau_j - tau_i|^2 (Frobenius norms).

    The mean is over ordered pairs i != j. G(i, j) = map((c_i - c_j) B) is orthogonal, so both terms are equal. It
    rotates each plane p of B by an angle. With u_i = R_i tau_i and R_i = expm(c_i B),

        expm:    sum_ij |G tau_i - tau_j|^2 = 2 N sum_i |u_i - mean u|^2 = 2 N sum_i |tau_i - R_i^-1 mean u|^2, in O(N).
        cayley:  the same plus a term of the difference of 2 atan(mu_p (c_i - c_j) / 2) and mu_p (c_i - c_j), in O(N^2).

    R_i is a sum of a few fixed matrices times cosines and sines of c_i, so no tau_i is multiplied by a matrix of its
    own. The planes are computed on the host, once per trace. At the optimum under expm, tau_i = expm(-c_i B) u for one
    frame u.

    Args:
      tau: (N, n, n) rotations. Half precision is computed in float32.
      covariate: (N,), or (N, C) for C covariates, scaled to [0, 1] on the training set.
      generator: (n, n) skew, or (C, n, n) skew and commuting. It must be concrete, see `so.generator`.
      group_map: "expm" or "cayley".
      mask: (N,) booleans or 0-1. Rows with 0 are dropped, whatever values they hold.
      axis_name: mapped axis or axes over whose devices the batch is spread, see `eqpool.losses` on gradients.

    Returns:
      A scalar, float32 at least. It is 0 if fewer than two rows count, and NaN if a row that counts is not finite.

    Raises:
      ValueError: shapes that do not go together, a generator that is traced, not skew or does not commute, or an
        unknown `group_map`.
    """
    tau, covariate, weight, planes = prepared_rows(tau, covariate, generator, group_map, mask)
    return loss_of_rows(tau, covariate, weight, planes, group_map, axis_name)


def unbiased_equivariance_loss(
    tau: ArrayLike,
    covariate: ArrayLike,
    *,
    generator: ArrayLike,
    group_map: so.GroupMap = "expm",
    mask: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    """Computes the equivariance loss relative to how far tau rotates, sum_c A_c L_c(c) / L_c(0).

    tau is computed from an image, which determines age only in part. With R^2 the share of the covariate's variance
    that the best reading p of the image explains, `equivariance_loss` is least where tau rotates by p. Its rotations
    then vary by R^2 of the required variance, and a regression of tau's angle on age has the slope R^2. This form is
    least where tau rotates by p / R^2, whose slope is 1: rows of one age rotate by that age on average. For small
    rotations the ratio is then 1 - R^2, and (1 - R^2) / R^2 at the minimum of the other.

    L_c is the loss in the planes that covariate c rotates, and L_c(0) the same for equal covariates, G = I. A_c is L_c
    of rotations that are all equal, so that the value is that of `equivariance_loss` where tau rotates as far as the
    covariates require. L_c(0) counts as at least a hundredth of A_c, below which the loss is a hundred times the other
    one. Directions that no covariate rotates enter as in `equivariance_loss`. The form is that of Lokhande et al. 2022,
    eq. (3), divided by its value without rotation. It is not in the paper.

    Arguments, result and errors are those of `equivariance_loss`.

    Raises:
      ValueError: also where two generators rotate the same plane, whose rotation belongs to no single covariate.
    """
    tau, covariate, weight, planes = prepared_rows(tau, covariate, generator, group_map, mask)
    owned = np.abs(planes.speeds) > _SAME_SPEED * np.max(np.abs(planes.speeds), initial=np.finfo(np.float64).tiny)
    if np.any(owned.sum(axis=0) > 1):
        raise ValueError("generator: two matrices rotate the same plane, expected planes of one covariate each")
    first, second, fixed = np.split(planes.basis, (planes.num_planes, 2 * planes.num_planes), axis=1)

    def loss(rows: Array, speeds: np.ndarray, covariate: Array, group_map: so.GroupMap = "expm") -> Array:
        own = InvariantPlanes(np.eye(rows.shape[1]), speeds)
        return loss_of_rows(rows, covariate, weight, own, group_map, axis_name)

    def rows_in(directions: np.ndarray, rotations: Array) -> Array:
        return einsum("ik,bij->bkj", jnp.asarray(directions, tau.dtype), rotations)

    total = jnp.zeros((), tau.dtype)
    for index, members in enumerate(owned):
        one, speeds = covariate[:, index : index + 1], planes.speeds[index : index + 1, members]
        directions = np.concatenate([first[:, members], second[:, members]], axis=1)
        rows = rows_in(directions, tau)
        equal = jnp.broadcast_to(jnp.asarray(directions.T, tau.dtype), rows.shape)
        required = loss(equal, speeds, one, group_map)
        rotated = jnp.maximum(loss(rows, speeds, jnp.zeros_like(one)), _LEAST_SHARE_TURNED * required)
        total = total + required * loss(rows, speeds, one, group_map) / jnp.where(rotated > 0, rotated, 1)
    if fixed.shape[1]:
        total = total + loss(rows_in(fixed, tau), np.zeros((1, 0)), jnp.zeros_like(covariate[:, :1]))
    return total


def equivariance_error(
    tau: ArrayLike,
    covariate: ArrayLike,
    *,
    generator: ArrayLike,
    group_map: so.GroupMap = "expm",
    mask: ArrayLike | None = None,
) -> Array:
    """Computes the ratio of the mean over pairs of |G(i,j) tau_i - tau_j|^2 to the same mean with G = I.

    The ratio is meant for held-out rows. At 0, tau rotates exactly as the covariates require. At 1, tau is predicted no
    better by G than by no rotation, as for a tau that is independent of the covariates. Above 1, tau rotates by less
    than required, or in other directions.

    The ratio is undefined, and NaN, if tau does not rotate with the covariates: if the mean of |tau_i - tau_j|^2 is at
    most a hundredth of the required mean of |G(i,j) - I|^2. Such a tau rotates by at most about a tenth of the angle.
    Its ratio would be near 80 or above and measure only how little it rotates. The ratio is also undefined if all
    covariates, or all tau, are equal up to the rounding of their dtype.

    Arguments and errors are those of `equivariance_loss`.

    Returns:
      A scalar. It is NaN where the ratio is undefined, if fewer than two rows count, or if one of them is not finite.
    """
    tau, covariate = as_float(tau), as_float(covariate)
    loss = partial(equivariance_loss, generator=generator, mask=mask)
    turned = loss(tau, covariate, group_map=group_map)
    still = loss(tau, jnp.zeros_like(covariate))
    identity = jnp.broadcast_to(jnp.eye(tau.shape[-1], dtype=tau.dtype)[None], tau.shape)
    asked = loss(identity, covariate, group_map=group_map)
    rounding = tau.shape[-1] * jnp.square(_ROUNDINGS * jnp.finfo(tau.dtype).eps)  # of entries of |tau|^2 = n
    is_defined = (asked > rounding) & (still > jnp.maximum(_LEAST_SHARE_TURNED * asked, rounding))
    return jnp.where(is_defined, turned / jnp.where(is_defined, still, 1), jnp.nan)


def equivariance_loss_pairwise(
    tau: ArrayLike,
    covariate: ArrayLike,
    *,
    generator: ArrayLike,
    group_map: so.GroupMap = "expm",
    mask: ArrayLike | None = None,
) -> Array:
    """Computes `equivariance_loss` as eq. (3) is written, with both terms of every pair, in O(N^2 n^3).

    This is the reference for `equivariance_loss`. Arguments, result and errors are the same, with three differences.
    The generator may be traced, several generators need not commute, and there is no `axis_name`.
    """
    so.group_map_named(group_map)
    tau, covariate = checked_rotations(tau, covariate, jnp.shape(generator), keep_axis=False)
    weight = row_weight(mask, tau.shape[0], dtype=tau.dtype)
    tau, covariate = zero_masked_rows(tau, weight), zero_masked_rows(covariate, weight)

    def both_terms(tau_i: Array, covariate_i: Array, tau_j: Array, covariate_j: Array) -> Array:
        rotation = so.relative_rotation(covariate_i, covariate_j, generator=generator, group_map=group_map)
        forward = matmul(rotation, tau_i) - tau_j
        backward = matmul(rotation.T, tau_j) - tau_i
        return jnp.sum(jnp.square(forward)) + jnp.sum(jnp.square(backward))

    over_j = jax.vmap(both_terms, in_axes=(None, None, 0, 0))
    terms = jax.vmap(over_j, in_axes=(0, 0, None, None))(tau, covariate, tau, covariate)
    pairs = weight[:, None] * weight[None] * (1 - jnp.eye(tau.shape[0], dtype=tau.dtype))
    return jnp.sum(terms * pairs) / jnp.maximum(jnp.sum(pairs), 1)
