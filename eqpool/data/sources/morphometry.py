"""Measures the thickness of a digit's strokes and its slant on a grey-level image.

The measures follow Castro et al. (2019), Morpho-MNIST: Quantitative assessment and diagnostics for representation
learning. The tests compare them with the authors' measurements of MNIST.
"""

import dataclasses

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize
from skimage.transform import pyramid_expand

ENLARGEMENT = 4  # a pixel becomes 4 x 4 subpixels, so that a stroke two pixels wide has two sides and a skeleton


@dataclasses.dataclass(frozen=True)
class Morphometry:
    """A digit's shape.

    Attributes:
      thickness_pixels: mean thickness of the strokes, in pixels of the image.
      slant_radians: lean from the vertical, positive to the right as in italics.
    """

    thickness_pixels: float
    slant_radians: float


def measure(image: np.ndarray) -> Morphometry:
    """Measures a bright digit on a dark ground.

    Args:
      image: (height, width) of any real dtype and scale, 0 on the ground.

    Raises:
      ValueError: if `image` is not two-dimensional, or has nothing brighter than 0.
    """
    enlarged = enlarge(image)
    stroke = enlarged > enlarged.max() / 2
    return Morphometry(
        thickness_pixels=mean_thickness(stroke, skeletonize(stroke)) / ENLARGEMENT,
        slant_radians=float(np.arctan(-lean(enlarged))),
    )


def enlarge(image: np.ndarray) -> np.ndarray:
    """Enlarges (height, width) to (4 height, 4 width) float64, by cubic splines without overshoot and some smoothing.

    Raises:
      ValueError: if `image` is not two-dimensional, or has nothing brighter than 0.
    """
    if image.ndim != 2 or not np.any(image > 0):
        raise ValueError(f"image of shape {image.shape}: expected (height, width) with something brighter than 0")
    return pyramid_expand(image.astype(np.float64), upscale=ENLARGEMENT, order=3)


def mean_thickness(stroke: np.ndarray, skeleton: np.ndarray) -> float:
    """Returns twice the mean distance from the skeleton to the stroke's edge, in pixels. Both are (H, W) bool."""
    return 2 * float(ndimage.distance_transform_edt(stroke)[skeleton].mean())


def lean(image: np.ndarray) -> float:
    """Returns the digit's mean shift to the right in columns for each row downwards.

    The shift is mu_11 / mu_02 of the image as a density. The tangent of the slant is its negative, since a digit in
    italics shifts to the left from top to bottom.
    """
    rows, columns = (np.arange(length, dtype=np.float64) for length in image.shape)
    total = image.sum()
    rows -= rows @ image.sum(axis=1) / total
    columns -= image.sum(axis=0) @ columns / total
    return float(rows @ image @ columns / (rows**2 @ image.sum(axis=1)))
