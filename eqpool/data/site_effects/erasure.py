"""Erases the linear effect of the site from latents in closed form, conditional on covariates and target.

LEACE (Belrose et al. 2023) is the marginal form: the smallest affine change after which no linear model
predicts a label. Where sites differ in age or diagnosis, it also removes part of these. The form here removes what the
site explains beyond covariates and target. Without them it is LEACE. Keeping some effects by an oblique
projection is also found in Holstege et al. 2025. All computations are float64 NumPy.
"""

from typing import NamedTuple

import numpy as np

# Sine of the smallest angle, in the whitened space, between a site direction and the effects of covariates and target
# at which these effects are kept. Keeping them adds noise to a row's estimated site effect, in proportion to 1 / sine.
SMALLEST_SINE = 0.3
_NEGLIGIBLE = 1e-9  # for canonical correlations, and for the norms of residual columns relative to the columns' own
_RANK = 1e-11  # eigenvalues of a covariance relative to the largest; float32 latents have rounding errors of 1e-14


class Erasure(NamedTuple):
    """An affine map mean + projection (x - mean) of latents x.

    Attributes:
      mean: (n,) float64.
      projection: (n, n) float64, idempotent but in general not symmetric.
    """

    mean: np.ndarray
    projection: np.ndarray

    def apply(self, latent: np.ndarray) -> np.ndarray:
        """Maps (N, n) latents to (N, n) float64 latents without the site's linear effect."""
        return self.mean + (latent - self.mean) @ self.projection.T


def no_erasure(dimension: int) -> Erasure:
    """Returns the identity."""
    return Erasure(np.zeros(dimension), np.eye(dimension))


def erase_site(latent: np.ndarray, site: np.ndarray, kept: np.ndarray) -> Erasure:
    """Fits the erasure on training rows.

    A row's site effect is estimated by generalised least squares and subtracted. The estimate ignores everything that
    covariates and target explain, so that their effects on the latent stay. Effects that are nearly parallel to a
    site's, below `SMALLEST_SINE`, are erased with it. Latents may have constant or collinear coordinates.

    Args:
      latent: (N, n) latents.
      site: (N,) site numbers. Rows of unknown site, -1, are left out.
      kept: (N, P) columns of covariates and target, without an intercept. P may be 0.

    Returns:
      The erasure, with the identity as projection if fewer than two sites have rows, or if covariates and target
      explain the sites.
    """
    rows, columns = latent[site >= 0].astype(np.float64), kept[site >= 0].astype(np.float64)
    identity, sites = np.eye(latent.shape[1]), _indicators(site[site >= 0])
    if sites.shape[1] < 2:
        return no_erasure(len(identity))
    mean = rows.mean(axis=0)
    centred, columns, sites = rows - mean, columns - columns.mean(axis=0), sites - sites.mean(axis=0)
    of_columns = _orthonormal(columns, np.linalg.norm(columns, axis=0))
    residual = _beyond(of_columns, centred)
    whitening, unwhitening = _square_roots(residual.T @ residual)
    # The span of the coefficients of a joint regression on both (Frisch and Waugh 1933).
    only_sites = _orthonormal(_beyond(of_columns, sites), np.linalg.norm(sites, axis=0))
    only_columns = _orthonormal(_beyond(_span(sites, _NEGLIGIBLE), columns), np.linalg.norm(columns, axis=0))
    directions = _span(whitening @ centred.T @ only_sites, _NEGLIGIBLE)
    effects = _span(whitening @ centred.T @ only_columns, _NEGLIGIBLE)
    return Erasure(mean, identity - unwhitening @ directions @ _reader(directions, effects).T @ whitening)


def _reader(directions: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Returns (n, r) columns that read the coefficients of r directions and are blind to the kept effects.

    `directions` (n, r) and `effects` (n, p) are orthonormal. Principal pairs at a small angle are not kept apart.
    """
    _, cosines, pairs = np.linalg.svd(directions.T @ effects)
    cosines = np.concatenate([cosines, np.zeros(len(pairs) - len(cosines))])
    protected = effects @ pairs[cosines**2 <= 1 - SMALLEST_SINE**2].T
    free = directions - protected @ (protected.T @ directions)
    return free @ np.linalg.inv(free.T @ free)


def _beyond(basis: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the residual of each column after projection on an orthonormal basis."""
    return values - basis @ (basis.T @ values)


def _indicators(site: np.ndarray) -> np.ndarray:
    return (site[:, None] == np.unique(site)[None]).astype(np.float64)


def _orthonormal(columns: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns an (N, r) orthonormal basis of (N, P) columns, each in units of its `scale`."""
    return _span(columns[:, scale > 0] / scale[scale > 0], _NEGLIGIBLE)


def _span(columns: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns an orthonormal basis of the directions whose singular value is above the tolerance."""
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, values > tolerance]


def _square_roots(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pseudo-inverse square root and the square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    present = values > _RANK * max(values[-1], 0)
    vectors, roots = vectors[:, present], np.sqrt(values[present])
    return (vectors / roots) @ vectors.T, (vectors * roots) @ vectors.T
