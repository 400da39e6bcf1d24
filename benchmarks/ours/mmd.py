"""Our maximum mean discrepancy across sites, with the kernel matrix computed in tiles."""

from benchmarks import inputs
from benchmarks.ours import common
from eqpool import mmd


def loss(rows: int, sites: int, gradient: bool, n: int = 30) -> inputs.Work:
    """Returns the work of the biased MMD over latents (rows, n) of `sites` sites, Laplacian kernel, bandwidth 1."""
    site = inputs.whole(sites, rows)
    latent = inputs.normal(rows, n, scale=0.2)
    return common.function(lambda latent: mmd(latent, site, num_sites=sites), latent, gradient)
