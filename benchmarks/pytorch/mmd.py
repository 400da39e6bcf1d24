"""The maximum mean discrepancy across sites, from the whole kernel matrix by torch.cdist and one-hot sites."""

import torch
from torch.nn import functional

from benchmarks import inputs
from benchmarks.pytorch import common


def mmd(latent: torch.Tensor, site: torch.Tensor, sites: int, bandwidth: float = 1.0) -> torch.Tensor:
    """Computes the biased MMD with a Laplacian kernel, (S - 1) tr M - sum_{k != l} M_kl.

    M holds the means of the kernel over pairs of sites.
    """
    weight = functional.one_hot(site, sites).to(latent.dtype)
    counts = weight.sum(0)
    weight = weight / counts.clamp(min=1)
    gram = weight.T @ torch.exp(-torch.cdist(latent, latent) / bandwidth) @ weight
    return (counts > 0).sum() * gram.diagonal().sum() - gram.sum()


def loss(rows: int, sites: int, gradient: bool, n: int = 30, compiled: bool = False) -> inputs.Work:
    """Returns the work of the MMD over latents (rows, n) of `sites` sites."""
    site = common.tensor(inputs.whole(sites, rows)).long()
    latent = inputs.normal(rows, n, scale=0.2)
    return common.function(lambda latent: mmd(latent, site, sites), latent, gradient, compiled)
