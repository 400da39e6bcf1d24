"""How like its input a harmonised volume still is: PSNR and SSIM inside the brain mask."""

import numpy as np
from skimage.metrics import structural_similarity


def peak_signal_to_noise(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """10 log10(range^2 / mean squared error) in decibels, range and error taken inside the mask; inf where equal.

    Args:
      image, reference: arrays of one shape.
      mask: bool, of that shape.
    """
    inside = reference[mask].astype(np.float64)
    error = np.mean((image[mask] - inside) ** 2)
    span = float(inside.max() - inside.min())
    return float(10 * np.log10(span**2 / error)) if error else float("inf")


def structural_similarity_inside(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """SSIM (Wang et al. 2004, 7^3 windows, the reference's range inside the mask), its mean inside the mask.

    Args:
      image, reference: volumes of one shape, at least seven voxels a side.
      mask: bool, of that shape.
    """
    inside = reference[mask]
    # Outside the mask both are 0: a decoder's leftovers there must not count.
    image, reference = (np.where(mask, values, 0).astype(np.float64) for values in (image, reference))
    span = float(inside.max() - inside.min())
    _, each = structural_similarity(image, reference, data_range=span, full=True)
    return float(each[mask].mean())
