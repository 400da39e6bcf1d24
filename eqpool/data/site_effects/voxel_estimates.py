"""Estimates location and scale of sites at the voxels of a brain, at two scales: a smooth part and what is left.

A scanner's field and contrast are smooth, and its blur shows at the edges of tissue. The smooth part is kept nearly
whole. What is left at a voxel is mostly the noise of a mean of people, and is shrunk by how much of its square the
noise explains in the neighbourhood.
"""

from typing import NamedTuple

import numpy as np

from eqpool.data.site_effects.moments import SiteModel
from eqpool.data.site_effects.smoothing import BrainSmoother

SMOOTHING_MM = 4.0  # standard deviation of the Gaussian over which location and log-scale are averaged
NEIGHBOURHOOD_MM = 12.0  # the same, over which the squares of what the smooth part leaves are averaged
LOCATION_PRIOR_ROWS, SCALE_PRIOR_ROWS = 3.0, 15.0  # rows without an effect that each estimate is averaged with
FEWEST_FOR_SCALE = 3
# A few controls of a new site need more smoothing, and their scale is noise. On simulated ADNI, with one site left
# out, 3 to 20 controls were best at 8 mm, and scales of fewer than 10 raised the error to the truth.
FEW_SMOOTHING_MM, FEWEST_CONTROLS_FOR_SCALE = 8.0, 10
_LEAST_VARIANCE = 1e-3  # share of the mean variance that is added to every voxel's, so that a ratio is defined


class Smoothers(NamedTuple):
    """The two averages over neighbouring voxels.

    Attributes:
      smooth: the average that gives the smooth part of an effect.
      around: the wider average of squares of what is left.
    """

    smooth: BrainSmoother
    around: BrainSmoother

    @classmethod
    def of(cls, mask: np.ndarray, voxel_mm: np.ndarray) -> "Smoothers":
        """Builds both for the voxels of a brain mask, of size `voxel_mm` (3,)."""
        return cls(*(BrainSmoother(mask, width / np.asarray(voxel_mm)) for width in (SMOOTHING_MM, NEIGHBOURHOOD_MM)))

    def squares_left(self, values: np.ndarray) -> np.ndarray:
        """Returns the mean square (V,), around each voxel, of what the smooth part of (K, V) values leaves."""
        left = [(row - self.smooth.apply(row)) ** 2 for row in values]
        return self.around.apply(np.mean(left, axis=0))

    def denoise(self, values: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Returns the smooth part of (V,) values, and of what is left the share that is not noise.

        It is the positive-part estimator of James and Stein 1961 in the neighbourhood of each voxel.

        Args:
          values: (V,) noisy values.
          noise: (V,) mean square of the noise in what is left. None if it is not known, and nothing is kept.
        """
        smooth = self.smooth.apply(values)
        if noise is None:
            return smooth
        left = values - smooth
        found = np.maximum(self.around.apply(left**2), 1e-300)
        return smooth + np.maximum(0, 1 - noise / found) * left


def estimate_effects(
    model: SiteModel, chosen: np.ndarray, noise: np.ndarray, smoothers: Smoothers, scales: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean and pooled variance (V,) of the chosen sites, and the location and log-scale (S, V) of all sites.

    The variance is that of a volume about the fit, of which persons have their part, as a volume is scaled as a whole.

    Args:
      model: fit of the volumes.
      chosen: (S,) bool, the sites that count as average.
      noise: (S, K, V) contrasts of each site's volumes, which vary as one volume does about the fit, or 0.
      smoothers: the two averages over neighbouring voxels.
      scales: whether scales are estimated.
    """
    weights = np.where(chosen, model.rows, 0) / model.rows[chosen].sum()
    mean = weights @ model.constants
    expected = model.expected_squares
    variance = model.residual_squares[chosen].sum(axis=0) / np.maximum(expected[chosen].sum(axis=0), 1)
    worth = model.information * (1 + model.ratio)  # rows of different persons that each constant is as sure as
    uncertain = np.stack([smoothers.squares_left(own) for own in noise]) / worth
    uncertain = (1 - 2 * weights)[:, None] * uncertain + weights**2 @ uncertain  # of a difference from the mean
    location, log_scale = np.zeros((2, *model.constants.shape))
    for index, rows in enumerate(model.independent):
        has_noise = bool(noise[index].any())
        offset = smoothers.denoise(model.constants[index] - mean, uncertain[index] if has_noise else None)
        location[index] = offset * worth[index] / (worth[index] + LOCATION_PRIOR_ROWS)
        if scales and rows.min() >= FEWEST_FOR_SCALE:
            ratio = _log_ratio(model.residual_squares[index] / expected[index], variance)
            unsure = _noise_of_log(noise[index], smoothers) / (rows - 1) if has_noise else None
            log_scale[index] = smoothers.denoise(ratio, unsure) * rows / (rows + SCALE_PRIOR_ROWS)
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
    return smoother.apply(_log_ratio(own, pooled))


def _noise_of_log(noise: np.ndarray, smoothers: Smoothers) -> np.ndarray:
    """Returns (rows - 1) times the noise (V,), beyond its smooth part, of the logarithm of a deviation of rows.

    That of each voxel is 1 / 2 for normal values. How much of it the smooth part takes depends on how alike squares of
    neighbouring voxels are, which half the difference of two contrasts' squares shows, whose variance is 1.
    """
    unit = noise / np.maximum(np.sqrt(smoothers.around.apply(np.mean(noise**2, axis=0))), 1e-150)
    return smoothers.squares_left((unit[:1] ** 2 - unit[1:2] ** 2) / 2) / 2


def _log_ratio(own: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    least = max(_LEAST_VARIANCE * float(pooled.mean()), 1e-12)
    return np.log((own + least) / (pooled + least)) / 2
