"""Kernels between latents and their bandwidths, for the maximum mean discrepancy (method.md section 4)."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqpool.numerics import matmul, safe_sqrt

Kernel = Literal["laplacian", "gaussian", "energy"]
Bandwidth = float | Sequence[float] | Array | Literal["median"]

# Rows among which the median distance is taken: it is then within 2% or so, and sorting more is slow (CPU: 0.2 s for
# 1024 rows against 5 ms for the loss itself).
_MEDIAN_ROWS = 256


def squared_distances(rows: Array, columns: Array) -> Array:
    """|x_i - y_j|^2 for rows (a, n) and columns (b, n): (a, b), exactly 0 with gradient 0 where x_i = y_j.

    By |x|^2 + |y|^2 - 2 x.y, a matrix product: fifteen times as fast with its gradient as the sum of squared
    differences (N = 2048, n = 30, CPU). Latents are centred first, since large norms would cancel, and a distance below
    the rounding of the sum is taken as 0: its direction, and with it a gradient of the norm, would be noise.
    """
    centre = jax.lax.stop_gradient(jnp.mean(columns, axis=0, keepdims=True))
    rows, columns = rows - centre, columns - centre
    norms = jnp.sum(jnp.square(rows), axis=1)[:, None] + jnp.sum(jnp.square(columns), axis=1)[None]
    squared = norms - 2 * matmul(rows, columns.T)
    rounding = 2 * jnp.finfo(rows.dtype).eps * jax.lax.stop_gradient(norms)
    return jnp.where(squared > rounding, squared, 0)


def kernel_matrix(rows: Array, columns: Array, *, kernel: Kernel, bandwidths: Array) -> Array:
    """k(x_i, y_j) for rows (a, n) and columns (b, n), the mean over `bandwidths` (B,): (a, b).

    With d = |x - y| and bandwidth p: laplacian exp(-d / p) (paper A's code, p = 1), gaussian exp(-d^2 / (2 p^2)),
    energy -d / p (its MMD^2 is the energy distance over p).
    """
    squared = squared_distances(rows, columns)
    if kernel == "gaussian":
        values = [jnp.exp(-squared / (2 * jnp.square(bandwidth))) for bandwidth in bandwidths]
    else:
        distance = safe_sqrt(squared)
        values = [-distance / bandwidth for bandwidth in bandwidths]
        values = [jnp.exp(value) for value in values] if kernel == "laplacian" else values
    return sum(values[1:], values[0]) / len(values)


def value_at_zero(kernel: Kernel) -> float:
    """k(x, x)."""
    return 0.0 if kernel == "energy" else 1.0


def check_kernel(kernel: str) -> None:
    """Raises a ValueError unless `kernel` is known."""
    if kernel not in ("laplacian", "gaussian", "energy"):
        raise ValueError(f"kernel is {kernel!r}, expected 'laplacian', 'gaussian' or 'energy'")


def resolve_bandwidths(bandwidth: Bandwidth, latent: Array, weight: Array) -> Array:
    """`bandwidth` as an array (B,): a number, the numbers of a mixture, or the median distance between latents.

    Args:
      bandwidth: a positive number, a sequence of them, or "median".
      latent: (N, n).
      weight: (N,), 0 on the rows to leave out of the median.

    Raises:
      ValueError: another string, an empty sequence, or a number that is not positive.
    """
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise ValueError(f"bandwidth is {bandwidth!r}, expected a number, a sequence of numbers or 'median'")
        return median_distance(latent, weight)[None]
    if not isinstance(bandwidth, jax.core.Tracer):
        values = np.atleast_1d(np.asarray(bandwidth, dtype=np.float64))
        if values.ndim != 1 or values.size == 0 or not np.all(np.isfinite(values) & (values > 0)):
            raise ValueError(f"bandwidth is {bandwidth}, expected a positive number or a sequence of them")
    return jnp.atleast_1d(jnp.asarray(bandwidth, latent.dtype))


def median_distance(latent: Array, weight: Array) -> Array:
    """Median of |x_i - x_j| over pairs of rows that count, as a constant (no gradient); 1 where it would be 0.

    Of more than 256 rows that count, 256 evenly spaced ones stand for all.
    """
    latent = jax.lax.stop_gradient(latent)
    count = jnp.sum(weight != 0)
    if latent.shape[0] > _MEDIAN_ROWS:
        in_order = jnp.argsort(weight == 0, stable=True)
        chosen = jnp.arange(_MEDIAN_ROWS)
        chosen = jnp.where(count > _MEDIAN_ROWS, chosen * count // _MEDIAN_ROWS, chosen)
        latent, weight = latent[in_order[chosen]], weight[in_order[chosen]]
    rows, columns = np.triu_indices(latent.shape[0], 1)
    counts = (weight[rows] != 0) & (weight[columns] != 0)
    distances = safe_sqrt(squared_distances(latent, latent))[rows, columns]
    # A last entry keeps the array from being empty, and the index below from running out, where no pair counts.
    ordered = jnp.append(jnp.sort(jnp.where(counts, distances, jnp.inf)), jnp.inf)
    pairs = jnp.sum(counts)
    median = (ordered[jnp.maximum(pairs - 1, 0) // 2] + ordered[pairs // 2]) / 2
    return jnp.where((pairs > 0) & (median > 0), median, 1)
