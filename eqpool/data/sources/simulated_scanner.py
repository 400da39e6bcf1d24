"""Simulates a scanner: contrast curve, bias field, blur, noise and gain, each varying from scan to scan."""

import dataclasses

import numpy as np
from scipy import ndimage

from eqpool.data.sources.simulated_anatomy import GREY, Canvas

TRUTH_UNIT = 1000  # intensity of white matter in the stored images without a scanner


@dataclasses.dataclass(frozen=True)
class Scanner:
    """The mean settings of a scanner.

    Attributes:
      gamma: exponent of the contrast curve. Values above 1 darken fluid against white matter.
      grey_shift: intensity added to grey matter, as a share of white, which sets the contrast of grey and white.
      bias: amplitude of the coil's own smooth bias field, natural logarithm.
      coil_seed: seed of the shape of that field, which is the same in every scan of the scanner.
      blur_mm: standard deviation of the point spread.
      noise: standard deviation in each of the two channels, as a share of white.
      gain: intensity of white matter, in the image's arbitrary units.
    """

    gamma: float
    grey_shift: float
    bias: float
    coil_seed: int
    blur_mm: float
    noise: float
    gain: float


def draws_of_scan(seed: int, number: int) -> np.random.Generator:
    """Returns the source of the variation of one subject's scan, which is the same whatever the scanner."""
    return np.random.default_rng((seed, number, 2))


def scan(
    truth: np.ndarray, canvas: Canvas, scanner: Scanner, coil: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Simulates one scan of a scanner-free brain.

    Args:
      truth: (points,) float32 in [0, 1] near the brain of `canvas`, 0 outside the brain.
      canvas: source of the grid and the smooth fields.
      scanner: mean settings, about which each scan varies.
      coil: (points,) `coil_field(canvas, scanner)`, the same for every scan of a scanner.
      random: source of this scan's variation.

    Returns:
      A volume, `canvas.grid.shape` float32, 0 outside the brain.
    """
    brain = truth > 0
    gamma = scanner.gamma * np.exp(0.05 * random.standard_normal())
    grey_shift = scanner.grey_shift + 0.015 * random.standard_normal()
    image = truth ** np.float32(gamma) + np.float32(grey_shift) * np.exp(-(((truth - GREY) / 0.12) ** 2))
    amplitude = scanner.bias * (1 + 0.25 * random.standard_normal())
    own = canvas.smooth_field(random)[:, 0]
    image = np.where(brain, image * np.exp(amplitude * coil + 0.03 * own), 0)
    image = _blur(image, brain, canvas, scanner.blur_mm * np.exp(0.1 * random.standard_normal()))
    noise = np.float32(scanner.noise * np.exp(0.15 * random.standard_normal()))
    first, second = noise * random.standard_normal((2, truth.size), dtype=np.float32)
    gain = scanner.gain * np.exp(0.15 * random.standard_normal())
    return canvas.on_grid(np.where(brain, gain * np.hypot(image + first, second), 0))


def coil_field(canvas: Canvas, scanner: Scanner) -> np.ndarray:
    """Returns the scanner's own smooth field, (points,) float32, with unit variance."""
    return canvas.smooth_field(np.random.default_rng(scanner.coil_seed))[:, 0]


def _blur(image: np.ndarray, brain: np.ndarray, canvas: Canvas, sigma_mm: float) -> np.ndarray:
    """Blurs inside the brain only, so that the empty background does not darken the brain's edge."""
    sigma = sigma_mm / canvas.voxel_mm
    blurred, weight = (
        ndimage.gaussian_filter(canvas.on_grid(values), sigma, truncate=3)[canvas.near] for values in (image, brain)
    )
    return blurred / np.maximum(weight, 1e-3)
