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
from eqpool.geometry.planes import InvariantPlanes, as_host_generator, invariant_planes
from eqpool.ops.arguments import check_shape
from eqpool.ops.devices import AxisName, gather_rows, sum_over
from eqpool.ops.numerics import as_float, einsum, matmul
from eqpool.ops.rows import flat_rows, row_weight, sum_over_row_tiles, zero_masked_rows

# Rows of an N x N intermediate that the Cayley form has in memory at the same time.
_TILE_SIZE = 1024
# The least mean squared rotation that counts as turning, as a share of the one that the covariates require. And the
# number of roundings of an entry of tau, the result of several matrix products, that count as no rotation.
_LEAST_SHARE_TURNED, _ROUNDINGS = 0.01, 32


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
    so.group_map_named(group_map)
    generator = as_host_generator(generator)
    tau, covariate = _checked(tau, covariate, generator.shape)
    planes = invariant_planes(generator)
    weight = row_weight(mask, tau.shape[0], dtype=tau.dtype)
    covariate = zero_masked_rows(covariate, weight)
    tau = zero_masked_rows(tau, weight)
    count = sum_over(jnp.sum(weight), axis_name)

    phases, matrices = _phases(covariate, planes)
    # Rotations flattened to rows, so that each product is one fast product of two matrices.
    rows = flat_rows(tau)
    sums = sum_over(matmul((phases * weight[:, None]).T, rows), axis_name).reshape(-1, *tau.shape[1:])
    mean = einsum("fik,fkj->ij", matrices, sums) / jnp.maximum(count, 1)  # of u
    turned_back = einsum("fki,kj->fij", matrices, mean)
    residual = (rows - matmul(phases, turned_back.reshape(phases.shape[1], -1))) * weight[:, None]
    # A single row has a rounding residual, which must not be divided by count - 1 = 0 nor count as a loss.
    scale = jnp.where(count > 1, 4 / jnp.maximum(count - 1, 1), 0)
    loss = scale * sum_over(jnp.sum(jnp.square(residual)), axis_name)
    if group_map == "cayley":
        excess = _cayley_excess(tau, residual.reshape(tau.shape), covariate, weight, planes, axis_name)
        loss = loss + 2 * excess / jnp.maximum(count * (count - 1), 1)
    return loss


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
    tau, covariate = _checked(tau, covariate, jnp.shape(generator), keep_axis=False)
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


def _checked(
    tau: ArrayLike, covariate: ArrayLike, generator_shape: tuple[int, ...], *, keep_axis: bool = True
) -> tuple[Array, Array]:
    """Returns `tau` and `covariate` in one dtype, the latter as (N, C) if `keep_axis`.

    Raises:
      ValueError: shapes that do not go together.
    """
    tau = as_float(tau)
    check_shape("tau", tau, ("N", "n", "n"))
    if generator_shape[-2:] != tau.shape[1:]:
        raise ValueError(f"generator has shape {generator_shape}, expected (..., n, n) with n = {tau.shape[1]} of tau")
    covariate = as_float(covariate).astype(tau.dtype)
    because = ": (N,) for a generator (n, n), (N, C) for (C, n, n)"
    check_shape("covariate", covariate, (tau.shape[0], *generator_shape[:-2]), because)
    return tau, covariate[:, None] if covariate.ndim == 1 and keep_axis else covariate


def _phases(covariate: Array, planes: InvariantPlanes) -> tuple[Array, Array]:
    """Returns factors (N, F) and matrices (F, n, n) whose products sum over F to expm(c_i B).

    The factors are the cosine and sine of the angle at each speed, and 1 for the directions that do not rotate. F is 2
    for the uniform generator and even n.
    """
    first, second, fixed = np.split(planes.basis, (planes.num_planes, 2 * planes.num_planes), axis=1)
    factors, matrices = [], []
    for members in _planes_by_speed(planes):
        angle = matmul(covariate, jnp.asarray(planes.speeds[:, members].mean(axis=1), covariate.dtype))
        e, f = first[:, members], second[:, members]
        factors += [jnp.cos(angle), jnp.sin(angle)]
        matrices += [e @ e.T + f @ f.T, f @ e.T - e @ f.T]
    if fixed.shape[1] or not matrices:
        factors.append(jnp.ones_like(covariate[:, 0]))
        matrices.append(fixed @ fixed.T)
    return jnp.stack(factors, axis=1), jnp.asarray(np.stack(matrices), covariate.dtype)


def _turn(tau: Array, covariate: Array, planes: InvariantPlanes) -> Array:
    """Computes u_i = expm(c_i B) tau_i, (N, n, n), with its rows in the order of `planes.basis`."""
    rows = einsum("ik,bij->bkj", jnp.asarray(planes.basis, tau.dtype), tau)
    angle = einsum("bc,cp->bp", covariate, jnp.asarray(planes.speeds, tau.dtype))[..., None]
    first, second, fixed = _split(rows, planes.num_planes)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([cosine * first - sine * second, sine * first + cosine * second, fixed], axis=1)


def _split(rows: Array, count: int) -> tuple[Array, Array, Array]:
    return rows[:, :count], rows[:, count : 2 * count], rows[:, 2 * count :]


def _planes_by_speed(planes: InvariantPlanes) -> list[np.ndarray]:
    """Groups the indices of planes that rotate at the same speed: one group per covariate for a uniform spectrum."""
    relative = planes.speeds / max(np.max(np.abs(planes.speeds), initial=0), np.finfo(np.float64).tiny)
    _, group = np.unique(np.round(relative, 6), axis=1, return_inverse=True)
    return [np.flatnonzero(group == index) for index in range(np.max(group, initial=-1) + 1)]


def _cayley_excess(
    tau: Array, residual: Array, covariate: Array, weight: Array, planes: InvariantPlanes, axis_name: AxisName
) -> Array:
    """Computes the sum over ordered pairs of |E_ij u_i - u_j|^2 - |u_i - u_j|^2.

    E_ij holds the phases by which the two group maps differ. u_i is `tau` rotated by R_i, and u_i - mean u is
    `residual` rotated by R_i.

    In a plane, in complex numbers, E u_i - u_j = (e^(i delta) - 1) u_i + (v_i - v_j) with v = u - mean u. Each term of
    the square is small where the loss is small, so no digits cancel. The products over i and j are one Gram matrix for
    all planes of one speed. Each device computes its own rows against the columns of all devices.
    """
    turned, centred = _turn(tau, covariate, planes), _turn(residual, covariate, planes)
    columns_centred, columns_covariate, columns_weight = gather_rows((centred, covariate, weight), axis_name)
    excess = jnp.zeros((), turned.dtype)
    for members in _planes_by_speed(planes):
        speed = jnp.asarray(planes.speeds[:, members].mean(axis=1), turned.dtype)

        def flat(rows: Array, members: np.ndarray = members) -> tuple[Array, Array]:
            first, second, _ = _split(rows, planes.num_planes)
            return flat_rows(first[:, members]), flat_rows(second[:, members])

        columns = (flat(columns_centred), matmul(columns_covariate, speed), columns_weight)
        rows = (flat(turned), flat(centred), matmul(covariate, speed), weight)
        partial_sum = partial(_excess_of_planes, columns=columns)
        excess = excess + sum_over_row_tiles(partial_sum, rows, tile_size=_TILE_SIZE)
    return sum_over(excess, axis_name)


def _excess_of_planes(rows: tuple, columns: tuple) -> Array:
    """Computes the part of `_cayley_excess` in planes of one speed, for a block of rows i and all columns j."""
    (first, second), (centred_first, centred_second), angle, weight = rows
    (column_first, column_second), column_angle, column_weight = columns
    turn = angle[:, None] - column_angle[None]
    delta = 2 * jnp.arctan(turn / 2) - turn
    gap = 4 * jnp.square(jnp.sin(delta / 2))  # |e^(i delta) - 1|^2

    # Real and imaginary part of <u_i, v_i - v_j>, with the second factor conjugated.
    real = jnp.sum(first * centred_first + second * centred_second, axis=1)[:, None] - (
        matmul(first, column_first.T) + matmul(second, column_second.T)
    )
    imaginary = jnp.sum(second * centred_first - first * centred_second, axis=1)[:, None] - (
        matmul(second, column_first.T) - matmul(first, column_second.T)
    )
    squared_norm = jnp.sum(jnp.square(first) + jnp.square(second), axis=1)[:, None]
    terms = gap * (squared_norm - real) - 2 * jnp.sin(delta) * imaginary
    return einsum("i,ij,j->", weight, terms, column_weight)
