"""Similarity of a harmonised volume to its input, by PSNR and SSIM inside the brain mask."""

import numpy as np
from skimage.metrics import structural_similarity


def peak_signal_to_noise(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Computes 10 log10(range^2 / mean squared error) inside the mask, in decibels.

    Args:
      image, reference: arrays of one shape. The range is that of the reference.
      mask: bool array of the same shape.

    Returns:
      Decibels, or inf if both are equal inside the mask. NaN if a voxel inside is not finite, or the reference is
      constant and the image another.

    Raises:
      ValueError: the shapes differ, or the mask is empty.
    """
    inside, span = _inside_and_range(image, reference, mask)
    difference = image[mask] - inside
    if not difference.any():
        return float("inf")
    return float(-10 * np.log10(np.mean((difference / span) ** 2))) if span > 0 else float("nan")


def structural_similarity_inside(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Computes the mean SSIM inside the mask (Wang et al. 2004), with 7^3 windows and the reference's range there.

    Args:
      image, reference: volumes of one shape, with at least seven voxels per side.
      mask: bool array of the same shape.

    Returns:
      From -1 to 1; NaN if a voxel inside is not finite, or the reference is constant there.

    Raises:
      ValueError: the shapes differ, or the mask is empty.
    """
    _, span = _inside_and_range(image, reference, mask)
    if not span > 0:
        return float("nan")
    # Both are set to 0 outside the mask, because a decoder's residual output there must not count.
    image, reference = (np.where(mask, values, 0).astype(np.float64) for values in (image, reference))
    _, each = structural_similarity(image, reference, data_range=span, full=True)
    return float(each[mask].mean())


def _inside_and_range(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, float]:
    """The reference inside the mask, float64, and its largest less its least value."""
    if image.shape != reference.shape or mask.shape != reference.shape or not mask.any():
        raise ValueError(
            f"image has shape {image.shape}, reference {reference.shape}, mask {mask.shape} with {mask.sum()} voxels, "
            "expected one shape and at least one voxel"
        )
    inside = reference[mask].astype(np.float64)
    return inside, float(inside.max() - inside.min())
