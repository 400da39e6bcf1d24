"""How thick a digit's strokes are and how far it leans, measured on its grey-level image.

After Castro et al. (2019), Morpho-MNIST: Quantitative assessment and diagnostics for representation learning; the
tests compare with its authors' measurements of MNIST.
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
      image: (height, width), of any real dtype and scale; 0 is the ground.

    Raises:
      ValueError: not one image, or nothing bright in it.
    """
    enlarged = enlarge(image)
    stroke = enlarged > enlarged.max() / 2
    return Morphometry(
        thickness_pixels=mean_thickness(stroke, skeletonize(stroke)) / ENLARGEMENT,
        slant_radians=float(np.arctan(-lean(enlarged))),
    )


def enlarge(image: np.ndarray) -> np.ndarray:
    """(height, width) to (4 height, 4 width) float64, by cubic splines without overshoot and some smoothing.

    Raises:
      ValueError: not one image, or nothing bright in it.
    """
    if image.ndim != 2 or not np.any(image > 0):
        raise ValueError(f"image of shape {image.shape}: expected (height, width) with something brighter than 0")
    return pyramid_expand(image.astype(np.float64), upscale=ENLARGEMENT, order=3)


def mean_thickness(stroke: np.ndarray, skeleton: np.ndarray) -> float:
    """Twice the mean distance from the skeleton to the stroke's edge; both (H, W) bool, the result in their pixels."""
    return 2 * float(ndimage.distance_transform_edt(stroke)[skeleton].mean())


def lean(image: np.ndarray) -> float:
    """Columns to the right a row further down, over the whole digit: mu_11 / mu_02 of the image as a density.

    The tangent of the slant is its negative: a digit in italics goes to the left on its way down.
    """
    rows, columns = (np.arange(length, dtype=np.float64) for length in image.shape)
    total = image.sum()
    rows -= rows @ image.sum(axis=1) / total
    columns -= image.sum(axis=0) @ columns / total
    return float(rows @ image @ columns / (rows**2 @ image.sum(axis=1)))
