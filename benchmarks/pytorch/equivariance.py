"""The equivariance loss in two forms: over pairs, as in eq. (3), and in O(N), as a variance in the eigenbasis of B."""

import numpy as np
import torch

from benchmarks import inputs
from benchmarks.pytorch import common
from eqpool.geometry.planes import assemble, invariant_planes

_MOST_ROWS_AT_ONCE = 64


def uniform_generator(n: int, rotation_range: float = 3.0) -> np.ndarray:
    """Returns B of Lokhande et al. 2022 with one speed in all planes (float64, on the host)."""
    upper = np.triu(np.ones((n, n)), 1)
    planes = invariant_planes(upper - upper.T)
    return assemble(planes._replace(speeds=np.full_like(planes.speeds, rotation_range)))[0]


class EquivarianceLoss:
    """The loss in O(N), computed in complex64.

    B = V diag(i w) V^H is computed once. Then sum_ij |G tau_i - tau_j|^2 = 2 N sum_i |z_i - mean z|^2 with
    z_i = exp(i w c_i) V^H tau_i.
    """

    def __init__(self, generator: np.ndarray):
        speeds, vectors = np.linalg.eigh(-1j * generator)
        self._speeds = torch.tensor(speeds, dtype=torch.float32)
        self._adjoint = torch.tensor(vectors.conj().T, dtype=torch.complex64)

    def __call__(self, tau: torch.Tensor, covariate: torch.Tensor) -> torch.Tensor:
        phase = torch.polar(torch.ones(()), covariate[:, None] * self._speeds)
        z = phase[..., None] * (self._adjoint @ tau.to(torch.complex64))
        return 4 * torch.view_as_real(z - z.mean(0)).square().sum() / (len(tau) - 1)


def pairwise(tau: torch.Tensor, covariate: torch.Tensor, generator: torch.Tensor) -> torch.Tensor:
    """Computes twice the mean of one term over ordered pairs, because the other term is equal.

    Some rows i are compared with all rows j at once. The N^2 relative rotations are products R(c_j)^T R(c_i), which
    avoids N^2 matrix exponentials.
    """
    rotation = torch.linalg.matrix_exp(covariate[:, None, None] * generator)
    total = tau.new_zeros(())
    for rows in range(0, len(tau), _MOST_ROWS_AT_ONCE):
        chosen = slice(rows, rows + _MOST_ROWS_AT_ONCE)
        total = total + torch.utils.checkpoint.checkpoint(
            _pairs, tau[chosen], rotation[chosen], tau, rotation, use_reentrant=False
        )
    return 2 * total / (len(tau) * (len(tau) - 1))


def _pairs(tau_i, rotation_i, tau, rotation):
    relative = rotation.transpose(-1, -2)[None] @ rotation_i[:, None]
    return (relative @ tau_i[:, None] - tau[None]).square().sum()


def loss(rows: int, n: int, form: str = "linear") -> inputs.Work:
    """Returns the work of the loss over `rows` rotations of n dimensions. `form` is "linear" or "pairwise"."""
    covariate, generator = common.tensor(inputs.uniform(rows)), uniform_generator(n)
    if form == "pairwise":
        matrix = torch.tensor(generator, dtype=torch.float32)
        return common.function(lambda tau: pairwise(tau, covariate, matrix), inputs.rotations(rows, n), True)
    variance = EquivarianceLoss(generator)
    return common.function(lambda tau: variance(tau, covariate), inputs.rotations(rows, n), True)
