"""Stretches the angles by which rotations differ from a frame, separately for each of several generators.

A network that reads a covariate from an image with R^2 below 1 rotates tau by the covariate regressed to the mean.
Stretched by 1 / R^2, the angles of rows with one value of the covariate are that value on average.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.geometry.planes import as_host_generator
from eqpool.ops.numerics import as_float, einsum

_TOLERANCE = 1e-5


def read_angles(tau: ArrayLike, frame: ArrayLike, *, generator: ArrayLike) -> Array:
    """Computes the angles theta_c for which expm(-sum_c theta_c J_c) frame is closest to tau.

    J_c is B_c divided by its speed. tau repeats after a full turn, so the angles are within half a turn of the frame.

    Args:
      tau: (N, n, n) rotations.
      frame: (n, n), the rotation from which angles are measured, or a multiple of it.
      generator: (C, n, n) skew matrices B_c with planes of their own, each with one speed (`so.generator`, "uniform").

    Returns:
      (N, C) radians in (-pi, pi].

    Raises:
      ValueError: a generator of another shape, or one whose planes rotate at different speeds.
    """
    tau, frame = as_float(tau), as_float(frame)
    angles = []
    for turn, plane in zip(*_unit_turns(generator), strict=True):
        forward = einsum("ij,jk->ik", jnp.asarray(turn, frame.dtype), frame)
        still = einsum("ij,jk->ik", jnp.asarray(plane, frame.dtype), frame)
        angles.append(jnp.arctan2(-einsum("nij,ij->n", tau, forward), einsum("nij,ij->n", tau, still)))
    return jnp.stack(angles, axis=1)


def stretch_rotations(tau: ArrayLike, frame: ArrayLike, factor: ArrayLike, *, generator: ArrayLike) -> Array:
    """Computes expm(-sum_c (a_c - 1) theta_c J_c) tau, with angles theta_c a_c times those of `read_angles`.

    Arguments are those of `read_angles`, with `factor` (C,), the factors a_c. An angle is stretched towards its own
    side of the frame, so rows on either side of half a turn from it move apart.

    Returns:
      (N, n, n) rotations.

    Raises:
      ValueError: see `read_angles`.
    """
    tau = as_float(tau)
    less = (1 - as_float(factor)).astype(tau.dtype)[None]
    angles = read_angles(tau, frame, generator=generator) * less
    for index, (turn, plane) in enumerate(zip(*_unit_turns(generator), strict=True)):
        angle = angles[:, index, None, None]
        within = einsum("ij,njk->nik", jnp.asarray(plane, tau.dtype), tau)
        across = einsum("ij,njk->nik", jnp.asarray(turn, tau.dtype), tau)
        tau = tau + (jnp.cos(angle) - 1) * within + jnp.sin(angle) * across
    return tau


def mean_frame(tau: np.ndarray, covariate: np.ndarray, centre: np.ndarray, *, generator: np.ndarray) -> np.ndarray:
    """Computes the mean of expm(sum_c (c_i - centre_c) B_c) tau_i, the frame at the covariates `centre`.

    Args:
      tau: (N, n, n) rotations.
      covariate: (N, C).
      centre: (C,).
      generator: as in `read_angles`.

    Returns:
      (n, n) float64.
    """
    count, size, _ = tau.shape
    flat = tau.reshape(count, -1)
    frame = (np.mean(flat, axis=0, dtype=np.float64)).reshape(size, size)
    turns, planes = _unit_turns(generator)
    for index, (turn, plane) in enumerate(zip(turns, planes, strict=True)):
        angle = (covariate[:, index] - centre[index]) * np.linalg.norm(generator[index], 2)
        cosine, sine = ((weight @ flat / count).reshape(size, size) for weight in (np.cos(angle) - 1, np.sin(angle)))
        frame = frame + plane @ cosine + turn @ sine
    return frame


def _unit_turns(generator: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns B_c divided by its speed, and the projections on the planes that it rotates, both (C, n, n) float64."""
    matrices = as_host_generator(generator)
    if matrices.ndim != 3:
        raise ValueError(f"generator has shape {matrices.shape}, expected (C, n, n)")
    turns = np.stack([matrix / np.linalg.norm(matrix, 2) for matrix in matrices])
    planes = -turns @ turns
    if np.max(np.abs(planes @ planes - planes)) > _TOLERANCE:
        raise ValueError('generator: its planes rotate at different speeds, expected one speed (spectrum "uniform")')
    return turns, planes
