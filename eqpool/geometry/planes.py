"""Invariant planes of skew matrices, computed once on the host in float64, so that no device needs an eigensolver."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from eqpool.ops.numerics import as_float, einsum, matmul

# Wide enough for a generator that was rounded to float32, and far below any real asymmetry.
_TOLERANCE = 1e-5


class InvariantPlanes(NamedTuple):
    """The planes in which commuting skew matrices B_c, c = 1..C, rotate.

    With e_p and f_p the two directions of plane p, B_c e_p = speeds[c, p] f_p and B_c f_p = -speeds[c, p] e_p.

    Attributes:
      basis: (n, n) float64, orthogonal. Its columns are e_1 .. e_P, f_1 .. f_P, and the directions that do not rotate.
      speeds: (C, P) float64, in the order of decreasing speed of all B_c together.
    """

    basis: np.ndarray
    speeds: np.ndarray

    @property
    def num_planes(self) -> int:
        """Number P of planes."""
        return self.speeds.shape[1]


def invariant_planes(generator: ArrayLike) -> InvariantPlanes:
    """Block-diagonalises one skew matrix, or several commuting ones together.

    A generic combination K of the B_c has their common planes. An eigenvector x + iy of iK with eigenvalue w > 0 spans
    such a plane, because K x = w y and K y = -w x. If eigenvalues of K coincide, any basis of the eigenspace serves.

    Args:
      generator: (n, n) or (C, n, n), concrete and not a tracer.

    Raises:
      ValueError: `generator` is traced, has another shape, is not finite or not skew, or its matrices do not commute.
    """
    matrices = as_host_generator(generator)
    matrices = matrices[None] if matrices.ndim == 2 else matrices
    _check_skew_and_commuting(matrices)
    norms = np.array([max(np.linalg.norm(matrix, 2), np.finfo(np.float64).tiny) for matrix in matrices])
    # The coefficients have no simple relation, so that different planes have different speeds in K.
    combined = np.einsum("c,cij->ij", np.sqrt(np.arange(len(norms)) + 2.0) / norms, matrices)
    values, vectors = np.linalg.eigh(1j * (combined - combined.T) / 2)
    turning = np.flatnonzero(values > _TOLERANCE * max(values[-1], np.finfo(np.float64).tiny))[::-1]
    first, second = np.sqrt(2) * vectors[:, turning].real, np.sqrt(2) * vectors[:, turning].imag
    fixed = np.linalg.svd(np.concatenate([first, second], axis=1))[0][:, 2 * len(turning) :]
    speeds = np.einsum("ip,cij,jp->cp", second, matrices, first)
    planes = InvariantPlanes(np.concatenate([first, second, fixed], axis=1), speeds)
    if np.max(np.abs(assemble(planes) - matrices) / norms[:, None, None]) > 10 * _TOLERANCE:
        raise ValueError("generator: the matrices have no common invariant planes, expected commuting skew matrices")
    return planes


def assemble(planes: InvariantPlanes) -> np.ndarray:
    """Returns the skew matrices (C, n, n) that rotate the planes at their speeds, the inverse of `invariant_planes`."""
    first, second = planes.basis[:, : planes.num_planes], planes.basis[:, planes.num_planes : 2 * planes.num_planes]
    half = np.einsum("ip,cp,jp->cij", second, planes.speeds, first)
    return half - np.swapaxes(half, -1, -2)


def rotations(planes: InvariantPlanes, covariate: ArrayLike) -> Array:
    """Computes expm(sum_c covariate_c B_c), (N, n, n) float32, from covariates (N, C) with one angle per plane."""
    covariate = as_float(covariate)
    basis = jnp.asarray(planes.basis, covariate.dtype)
    first, second, fixed = jnp.split(basis.T, (planes.num_planes, 2 * planes.num_planes))
    angle = matmul(covariate, jnp.asarray(planes.speeds, covariate.dtype))[..., None]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    turned = [cosine * first[None] - sine * second[None], sine * first[None] + cosine * second[None]]
    still = jnp.broadcast_to(fixed, (len(covariate), *fixed.shape))
    return einsum("ik,bkj->bij", basis, jnp.concatenate([*turned, still], axis=1))


def as_host_generator(generator: ArrayLike) -> np.ndarray:
    """Returns `generator` as a float64 array in host memory, (n, n) or (C, n, n).

    Raises:
      ValueError: `generator` is traced, has another shape or is not finite.
    """
    try:
        matrices = np.asarray(generator, dtype=np.float64)
    except (TypeError, ValueError) as error:  # for a tracer jax raises a subclass of TypeError
        raise ValueError(f"generator is a {type(generator).__name__}, expected a concrete array of numbers") from error
    if matrices.ndim not in (2, 3) or matrices.shape[-1] != matrices.shape[-2] or matrices.shape[-1] < 2:
        raise ValueError(f"generator has shape {matrices.shape}, expected (n, n) or (C, n, n) with n >= 2")
    if not np.all(np.isfinite(matrices)):
        raise ValueError("generator has entries that are not finite")
    return matrices


def _check_skew_and_commuting(matrices: np.ndarray) -> None:
    for index, matrix in enumerate(matrices):
        size = np.max(np.abs(matrix))
        if np.max(np.abs(matrix + matrix.T)) > _TOLERANCE * size:
            raise ValueError(f"generator {index} is not skew: B + B^T reaches {np.max(np.abs(matrix + matrix.T)):.3g}")
        for other in range(index):
            commutator = matrix @ matrices[other] - matrices[other] @ matrix
            if np.linalg.norm(commutator) > _TOLERANCE * np.linalg.norm(matrix) * np.linalg.norm(matrices[other]):
                raise ValueError(f"generators {other} and {index} do not commute, expected commuting skew matrices")
