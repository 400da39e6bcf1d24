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
    """Returns mean and pooled variance (V,) of the chosen sites, and the location and log-scale (S, V) of all sites.

    The variance is that of a volume about the fit, of which persons have their part, as a volume is scaled as a whole.
    """
    weights = np.where(chosen, model.rows, 0) / model.rows[chosen].sum()
    mean = weights @ model.constants
    expected = model.expected_squares
    variance = model.residual_squares[chosen].sum(axis=0) / np.maximum(expected[chosen].sum(axis=0), 1)
    location = np.stack([smoother.apply(row) for row in model.constants - mean])
    worth = model.information * (1 + model.ratio)  # rows of different persons that each constant is as sure as
    location *= worth / (worth + LOCATION_PRIOR_ROWS)
    log_scale = np.zeros_like(location)
    for index, rows in enumerate(model.independent):
        if scales and rows.min() >= FEWEST_FOR_SCALE:
            own = smooth_log_scale(model.residual_squares[index] / expected[index], variance, smoother)
            log_scale[index] = own * rows / (rows + SCALE_PRIOR_ROWS)
    return mean, variance, location, log_scale


def mean_of_people(values: np.ndarray, subject: np.ndarray | None) -> np.ndarray:
    """Returns the mean (m, V) of each person's (n, V) rows, given the (n,) labels of persons, or None for n persons."""
    if subject is None:
        return values
    people, person = np.unique(subject, return_inverse=True)
    return (
        values
        if len(people) == len(values)
        else np.stack([values[person == one].mean(axis=0) for one in range(len(people))])
    )


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
