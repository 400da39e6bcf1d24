"""The sums over pairs of the equivariance loss, computed in the invariant planes of its generators.

The maths is in `eqpool.losses.equivariance`, which is the module to use.
"""

from functools import partial

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


def prepared_rows(
    tau: ArrayLike, covariate: ArrayLike, generator: ArrayLike, group_map: so.GroupMap, mask: ArrayLike | None
) -> tuple[Array, Array, Array, InvariantPlanes]:
    """Returns tau (N, n, n) and covariate (N, C) with masked rows as 0, the weights of rows (N,), and the planes.

    Raises:
      ValueError: see `equivariance_loss`.
    """
    so.group_map_named(group_map)
    generator = as_host_generator(generator)
    tau, covariate = checked_rotations(tau, covariate, generator.shape)
    weight = row_weight(mask, tau.shape[0], dtype=tau.dtype)
    return zero_masked_rows(tau, weight), zero_masked_rows(covariate, weight), weight, invariant_planes(generator)


def loss_of_rows(
    tau: Array, covariate: Array, weight: Array, planes: InvariantPlanes, group_map: so.GroupMap, axis_name: AxisName
) -> Array:
    """Computes `equivariance_loss` of (N, k, n) rows of rotations in the space (k, k) of `planes`."""
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


def checked_rotations(
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
