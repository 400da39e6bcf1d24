"""Cayley map by a batched solve and torch.linalg.matrix_exp."""

import torch

from benchmarks import inputs
from benchmarks.pytorch import common


def cayley(A: torch.Tensor) -> torch.Tensor:
    """(I - A/2)^-1 (I + A/2)."""
    identity = torch.eye(A.shape[-1], dtype=A.dtype)
    return torch.linalg.solve(identity - A / 2, identity + A / 2)


def group_map(name: str, n: int, batch: int, gradient: bool, compiled: bool = False) -> inputs.Work:
    """ "cayley" or "expm" of `batch` skew matrices, weighed and summed."""
    weight = common.tensor(inputs.normal(batch, n, n, seed=3))
    mapped = {"cayley": cayley, "expm": torch.linalg.matrix_exp}[name]
    return common.function(lambda A: (mapped(A) * weight).sum(), inputs.skew_matrices(batch, n), gradient, compiled)
