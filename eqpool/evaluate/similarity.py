"""Similarity of a harmonised volume to its input, by PSNR and SSIM inside the brain mask."""

import numpy as np
from skimage.metrics import structural_similarity


def peak_signal_to_noise(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Computes 10 log10(range^2 / mean squared error) inside the mask, in decibels.

    Args:
      image, reference: arrays of one shape. The range is that of the reference.
      mask: bool array of the same shape.

    Returns:
      The ratio, or inf if both are equal inside the mask.
    """
    inside = reference[mask].astype(np.float64)
    error = np.mean((image[mask] - inside) ** 2)
    span = float(inside.max() - inside.min())
    return float(10 * np.log10(span**2 / error)) if error else float("inf")


def structural_similarity_inside(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Computes the mean SSIM inside the mask (Wang et al. 2004), with 7^3 windows and the reference's range there.

    Args:
      image, reference: volumes of one shape, with at least seven voxels per side.
      mask: bool array of the same shape.
    """
    inside = reference[mask]
    # Both are set to 0 outside the mask, because a decoder's residual output there must not count.
    image, reference = (np.where(mask, values, 0).astype(np.float64) for values in (image, reference))
    span = float(inside.max() - inside.min())
    _, each = structural_similarity(image, reference, data_range=span, full=True)
    return float(each[mask].mean())
