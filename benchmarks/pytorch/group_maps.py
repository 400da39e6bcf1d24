"""The Cayley map by a batched solve, and the exponential by torch.linalg.matrix_exp."""

import torch

from benchmarks import inputs
from benchmarks.pytorch import common


def cayley(A: torch.Tensor) -> torch.Tensor:
    """Computes (I - A/2)^-1 (I + A/2)."""
    identity = torch.eye(A.shape[-1], dtype=A.dtype)
    return torch.linalg.solve(identity - A / 2, identity + A / 2)


def group_map(name: str, n: int, batch: int, gradient: bool) -> inputs.Work:
    """Returns the work of a weighted sum over the map ("cayley" or "expm") of `batch` skew matrices."""
    weight = common.tensor(inputs.normal(batch, n, n, seed=3))
    mapped = {"cayley": cayley, "expm": torch.linalg.matrix_exp}[name]
    return common.function(lambda A: (mapped(A) * weight).sum(), inputs.skew_matrices(batch, n), gradient)
