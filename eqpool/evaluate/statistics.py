"""Voxelwise statistics: t-maps and partial R^2 of a linear model, corrected for the number of voxels.

Voxels are processed in tiles, so that a cohort's volumes are never in memory all at once. A tile holds all N rows of
some voxels, and its number of voxels is chosen to limit its size. All computations are float64 on the host.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

_TILE_VALUES = 2**22  # 32 MB in float64
_LARGEST = 1e150  # its squares, and their sums, are finite
_NEGLIGIBLE = 1e-12  # relative to a voxel's scale; a smaller deviation is rounding error

Correction = Literal["none", "bonferroni", "fdr"]


class TMap(NamedTuple):
    """A voxelwise t-test of one regressor.

    Attributes:
      effect: (V,) float64, coefficient of the regressor, in units of the voxel per unit of the regressor.
      t: (V,) float64, t-values, 0 if a voxel is constant.
      p: (V,) float64, two-sided uncorrected p-values, 1 if a voxel is constant.
      degrees_of_freedom: degrees of freedom of the residual.
    """

    effect: np.ndarray
    t: np.ndarray
    p: np.ndarray
    degrees_of_freedom: int


class PartialR2(NamedTuple):
    """The share of variance that some regressors explain beyond others.

    Attributes:
      r_squared: (V,) float64 in [0, 1], 0 if a voxel is constant.
      p: (V,) float64, uncorrected p-values of the F-test.
      by_chance: expected partial R^2 of a voxel that is unrelated to the regressors.
    """

    r_squared: np.ndarray
    p: np.ndarray
    by_chance: float


def tile_width(rows: int) -> int:
    """Returns the number of voxels in a tile with this number of rows."""
    return max(1, _TILE_VALUES // max(1, rows))


def t_map(tiles: Iterable[np.ndarray], of_interest: np.ndarray, nuisance: np.ndarray) -> TMap:
    """Fits ordinary least squares at every voxel, and tests one regressor with nuisance regressors and an intercept.

    Args:
      tiles: arrays (N, T), which cover the V voxels of the map together.
      of_interest: (N,), regressor, such as 1 for AD and 0 for CN.
      nuisance: (N, C), nuisance regressors without the intercept. C may be 0.

    Raises:
      ValueError: the numbers of rows differ, a value is not finite, the regressor is collinear with the nuisance
        regressors, or no degree of freedom is left.
    """
    basis = _nuisance_basis(nuisance, len(of_interest))
    regressor = of_interest.astype(np.float64)[:, None]
    residual = _beyond(basis, regressor)
    _check_independent(residual, regressor)
    freedom = _freedom(len(regressor), basis.shape[1] + 1)
    norm = np.sqrt((residual**2).sum())
    effects, scores = [], []
    for tile in tiles:
        remaining = _beyond(basis, _checked(tile, len(regressor)))
        projection = (residual / norm).T @ remaining
        unexplained = np.sqrt(((remaining - (residual / norm) @ projection) ** 2).sum(axis=0) / freedom)
        flat = _is_flat(remaining, tile)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores.append(np.where(flat, 0.0, projection[0] / unexplained))
        effects.append(np.where(flat, 0.0, projection[0] / norm))
    t = np.concatenate(scores)
    return TMap(np.concatenate(effects), t, 2 * stats.t.sf(np.abs(t), freedom), freedom)


def partial_r_squared(tiles: Iterable[np.ndarray], of_interest: np.ndarray, nuisance: np.ndarray) -> PartialR2:
    """Computes 1 - RSS(with both) / RSS(nuisance alone) at every voxel, and its F-test.

    Both models have an intercept.

    Args:
      tiles: arrays (N, T), which cover the V voxels of the map together.
      of_interest: (N, K), regressors, such as the indicators of K + 1 sites without the first site.
      nuisance: (N, C), nuisance regressors without the intercept. C may be 0.

    Raises:
      ValueError: the numbers of rows differ, a value is not finite, the regressors are collinear with each other or
        with the nuisance regressors, or no degree of freedom is left.
    """
    basis = _nuisance_basis(nuisance, len(of_interest))
    regressors = of_interest.astype(np.float64)
    residual = _beyond(basis, regressors)
    _check_independent(residual, regressors)
    own = np.linalg.qr(residual)[0]
    freedom = _freedom(len(regressors), basis.shape[1] + own.shape[1])
    parts = []
    for tile in tiles:
        remaining = _beyond(basis, _checked(tile, len(regressors)))
        total = (remaining**2).sum(axis=0)
        explained = ((own.T @ remaining) ** 2).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(np.where(_is_flat(remaining, tile), 0.0, np.minimum(explained / total, 1.0)))
    share = np.concatenate(parts)
    with np.errstate(divide="ignore"):
        f = (share / own.shape[1]) / ((1 - share) / freedom)
    return PartialR2(share, stats.f.sf(f, own.shape[1], freedom), own.shape[1] / (own.shape[1] + freedom))


def significant(p: np.ndarray, correction: Correction = "bonferroni", threshold: float = 1e-3) -> np.ndarray:
    """Returns a mask (V,) of the voxels with p < threshold after a correction for all V voxels.

    "bonferroni" bounds the probability of any false voxel. "fdr" (Benjamini and Hochberg 1995) bounds the expected
    share of false voxels among those found.

    Raises:
      ValueError: another correction.
    """
    if correction not in ("none", "bonferroni", "fdr"):
        raise ValueError(f"correction is {correction!r}, expected 'none', 'bonferroni' or 'fdr'")
    if correction == "none":
        return p < threshold
    if correction == "bonferroni":
        return p * p.size < threshold
    return stats.false_discovery_control(p) < threshold


def t_threshold(voxels: int, freedom: int, threshold: float = 1e-3) -> float:
    """Returns the |t| above which a voxel passes Bonferroni correction; NaN without voxels or degrees of freedom."""
    return float(stats.t.isf(threshold / voxels / 2, freedom)) if voxels > 0 and freedom > 0 else float("nan")


def indicators(labels: np.ndarray) -> np.ndarray:
    """Encodes labels (N,) with K values as indicators (N, K - 1) float64. The first value is the baseline."""
    return (labels[:, None] == np.unique(labels)[None, 1:]).astype(np.float64)


def is_estimable(of_interest: np.ndarray, nuisance: np.ndarray) -> bool:
    """Returns True if `partial_r_squared`, or `t_map` for K = 1, can fit the regressors (N, K) with nuisance (N, C)."""
    basis = _nuisance_basis(nuisance, len(of_interest))
    residual = _beyond(basis, of_interest.astype(np.float64))
    parameters = basis.shape[1] + of_interest.shape[1]
    return len(of_interest) > parameters and _is_independent(residual, of_interest)


def _nuisance_basis(nuisance: np.ndarray, rows: int) -> np.ndarray:
    """Returns orthonormal columns (N, rank) that span the intercept and the nuisance regressors."""
    if nuisance.ndim != 2 or len(nuisance) != rows or not rows:
        raise ValueError(f"nuisance is {nuisance.shape}, expected ({rows}, C) with at least one row")
    if not np.isfinite(nuisance).all():
        raise ValueError("nuisance has values that are not finite")
    centred = nuisance.astype(np.float64) - nuisance.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=0))
    scaled = centred[:, spread > 0] / spread[spread > 0]  # a constant column duplicates the intercept
    left, values, _ = np.linalg.svd(np.column_stack([np.full(rows, rows**-0.5), scaled]), full_matrices=False)
    return left[:, values > 1e-9 * values[0]]


def _beyond(basis: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the residual of each column after projection on the basis."""
    return values - basis @ (basis.T @ values)


def _is_independent(residual: np.ndarray, regressors: np.ndarray) -> bool:
    if not np.isfinite(residual).all() or not regressors.shape[1]:
        return False
    scale = float(np.linalg.norm(regressors))
    return float(np.linalg.svd(residual, compute_uv=False).min()) > 1e-9 * max(scale, 1e-300)


def _check_independent(residual: np.ndarray, regressors: np.ndarray) -> None:
    if not _is_independent(residual, regressors):
        raise ValueError("the regressors of interest are not finite, constant, or explained by the others")


def _freedom(rows: int, parameters: int) -> int:
    if rows - parameters < 1:
        raise ValueError(f"{rows} rows for {parameters} parameters, expected more rows")
    return rows - parameters


def _checked(tile: np.ndarray, rows: int) -> np.ndarray:
    if tile.ndim != 2 or len(tile) != rows:
        raise ValueError(f"a tile is {tile.shape}, expected ({rows}, T)")
    tile = np.asarray(tile, np.float64)
    bad = np.sum(~(np.abs(tile) < _LARGEST))
    if bad:
        raise ValueError(f"a tile holds {bad} values that are not finite or above {_LARGEST:g}, expected none")
    return tile


def _is_flat(remaining: np.ndarray, tile: np.ndarray) -> np.ndarray:
    scale = np.maximum(np.einsum("nt,nt->t", tile, tile, dtype=np.float64), 1e-300)
    return (remaining**2).sum(axis=0) <= _NEGLIGIBLE**2 * scale
