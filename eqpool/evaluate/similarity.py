"""How like its input a harmonised volume still is: PSNR and SSIM inside the brain mask."""

import numpy as np
from skimage.metrics import structural_similarity


def peak_signal_to_noise(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """10 log10(range^2 / mean squared error) in decibels, range and error taken inside the mask; inf where equal.

    Args:
      image, reference: arrays of one shape.
      mask: bool, of that shape.

    Returns:
      Decibels; NaN where a voxel inside is not finite, or where the reference is constant and the image another.

    Raises:
      ValueError: shapes that do not go together, or an empty mask.
    """
    inside, span = _inside_and_range(image, reference, mask)
    difference = image[mask] - inside
    if not difference.any():
        return float("inf")
    return float(-10 * np.log10(np.mean((difference / span) ** 2))) if span > 0 else float("nan")


def structural_similarity_inside(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """SSIM (Wang et al. 2004, 7^3 windows, the reference's range inside the mask), its mean inside the mask.

    Args:
      image, reference: volumes of one shape, at least seven voxels a side.
      mask: bool, of that shape.

    Returns:
      From -1 to 1; NaN where a voxel inside is not finite, or where the reference is constant there.

    Raises:
      ValueError: shapes that do not go together, or an empty mask.
    """
    _, span = _inside_and_range(image, reference, mask)
    if not span > 0:
        return float("nan")
    # Outside the mask both are 0: a decoder's leftovers there must not count.
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
