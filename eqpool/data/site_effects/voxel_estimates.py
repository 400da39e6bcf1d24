"""Estimates location and scale of sites at the voxels of a brain, smoothed and shrunk."""

import numpy as np

from eqpool.data.site_effects.moments import SiteModel
from eqpool.data.site_effects.smoothing import BrainSmoother

SMOOTHING_MM = 4.0  # standard deviation of the Gaussian over which location and log-scale are averaged
LOCATION_PRIOR_ROWS, SCALE_PRIOR_ROWS = 3.0, 15.0  # rows without an effect that each estimate is averaged with
FEWEST_FOR_SCALE = 3
# A few controls of a new site need more smoothing, and their scale is noise. On simulated ADNI, with one site left
# out, 3 to 20 controls were best at 8 mm, and scales of fewer than 10 raised the error to the truth.
FEW_SMOOTHING_MM, FEWEST_CONTROLS_FOR_SCALE = 8.0, 10
_LEAST_VARIANCE = 1e-3  # share of the mean variance that is added to every voxel's, so that a ratio is defined


def estimate_effects(
    model: SiteModel, chosen: np.ndarray, smoother: BrainSmoother, scales: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean and pooled variance (V,) of the chosen sites, and the location and log-scale (S, V) of all sites."""
    weights = np.where(chosen, model.rows, 0) / model.rows[chosen].sum()
    mean = weights @ model.constants
    variance = model.residual_squares[chosen].sum(axis=0) / max(int(np.sum(model.rows[chosen] - 1)), 1)
    location = np.stack([smoother.apply(row) for row in model.constants - mean])
    location *= (model.rows / (model.rows + LOCATION_PRIOR_ROWS))[:, None]
    log_scale = np.zeros_like(location)
    for index, rows in enumerate(model.rows):
        if scales and rows >= FEWEST_FOR_SCALE:
            own = smooth_log_scale(model.residual_squares[index] / (rows - 1), variance, smoother)
            log_scale[index] = own * rows / (rows + SCALE_PRIOR_ROWS)
    return mean, variance, location, log_scale


def shrunk_mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean (V,) of (n, V) rows, times the share of its mean square that is not noise.

    This is the positive-part estimator of James and Stein 1961, with one share for all voxels.

    The noise of a single row is not known, and half of the row is kept.
    """
    mean, count = values.mean(axis=0), len(values)
    if count == 1:
        return mean / 2
    noise = float(np.mean((values - mean) ** 2)) / (count - 1)
    return mean * max(0.0, 1 - noise / max(float(np.mean(mean**2)), 1e-300))


def smooth_log_scale(own: np.ndarray, pooled: np.ndarray, smoother: BrainSmoother) -> np.ndarray:
    """Returns the smoothed logarithm (V,) of the ratio of two deviations, given their squares (V,)."""
    least = max(_LEAST_VARIANCE * float(pooled.mean()), 1e-12)
    return smoother.apply(np.log((own + least) / (pooled + least)) / 2)
