"""The maximum mean discrepancy across sites, ours: the kernel matrix in tiles."""

from benchmarks import inputs
from benchmarks.ours import common
from eqpool import mmd


def loss(rows: int, sites: int, gradient: bool, n: int = 30) -> inputs.Work:
    """Laplacian, biased, bandwidth 1, over latents (rows, n) of `sites` sites."""
    site = inputs.whole(sites, rows)
    latent = inputs.normal(rows, n, scale=0.2)
    return common.function(lambda latent: mmd(latent, site, num_sites=sites), latent, gradient)
