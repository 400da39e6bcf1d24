"""Draws an MNIST digit with strokes of a given thickness and slant, healthy, fractured or swollen.

Domains and classes are those of Robinson et al. (2020), Section 3.1. Upright digits are drawn at four times the
resolution on the signed distance to the strokes' edge ("level", positive inside, in subpixels), and averaged down. As
in that paper, a slanted digit is made by shearing the finished image of an upright one, including its disease.
"""

import dataclasses

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

from eqpool.data.sources.morphometry import ENLARGEMENT, enlarge, lean, mean_thickness
from eqpool.data.sources.perturbations import fracture, swell

CLASSES = ("healthy", "fractured", "swollen")
_ORIGINS = ("train", "test")  # MNIST's two files

_GAP_PIXELS = 1.5  # of 120 digits, the faintest cut darkens some pixel by 206 of 255 levels; by 151 with a gap of 1
_SWELLING_STRENGTH = 3.0
_SWELLING_REACH_PIXELS = 7.0
_MARGIN_PIXELS = 2.0  # kept free around a digit
_LEAST_SHARE = 0.7  # of the wanted thickness. Thin places keep it, so that thinning does not break a stroke
_THICKNESS_ROUNDS = 2
_PIXEL_BLUR = 2.0  # in subpixels, the blur of an edge by averaging to pixels and enlarging again to measure


@dataclasses.dataclass(frozen=True)
class Domain:
    """The look of the digits of one domain.

    Attributes:
      name: name in a configuration.
      thickness_pixels: mean thickness of the upright strokes. A shear of 20 to 25 degrees makes them 5 % thinner.
      slant_degrees: lowest and highest slant to the right. A digit's own slant is removed first.
    """

    name: str
    thickness_pixels: float
    slant_degrees: tuple[float, float]


DOMAINS = {
    domain.name: domain
    for domain in (
        Domain("thin", 2.5, (0.0, 0.0)),
        Domain("thick", 5.0, (0.0, 0.0)),
        Domain("slanted", 2.5, (20.0, 25.0)),
        Domain("thick_slanted", 5.0, (20.0, 25.0)),
    )
}


def random_digits(
    images: np.ndarray, indices: np.ndarray, origin: str, domain: Domain, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws digits in one domain, each of a random class.

    Class, slant and the place of the disease depend on (seed, origin, index) alone. They are therefore the same for a
    digit in every domain, and do not depend on the other digits.

    Args:
      images: (K, 28, 28) uint8 images from MNIST.
      indices: (K,) their numbers in MNIST's file.
      origin: name of the file, one of `_ORIGINS`.
      domain: look of the digits.
      seed: seed of class, slant and place of the disease.

    Returns:
      (K, 28, 28) uint8 images and (K,) int64 indices into `CLASSES`.
    """
    drawn = np.empty(images.shape, np.uint8)
    kinds = np.empty(len(images), np.int64)
    for row, index in enumerate(indices):
        random = np.random.default_rng((seed, _ORIGINS.index(origin), int(index)))
        kinds[row] = random.integers(len(CLASSES))
        drawn[row] = draw_digit(images[row], domain, CLASSES[kinds[row]], random)
    return drawn, kinds


def draw_digit(image: np.ndarray, domain: Domain, kind: str, random: np.random.Generator) -> np.ndarray:
    """Draws one digit.

    Args:
      image: (height, width) uint8, a bright digit.
      domain: look of the digit.
      kind: one of `CLASSES`.
      random: source of the slant and the place of the disease.

    Returns:
      (height, width) uint8.
    """
    slant = np.radians(random.uniform(*domain.slant_degrees))
    position = random.uniform()
    stroke = _upright_stroke(enlarge(image), domain.thickness_pixels * ENLARGEMENT, room_for_shear=-np.tan(slant))
    level = _with_thickness(stroke, domain.thickness_pixels * ENLARGEMENT)
    # Changing the thickness treats faint and bright strokes alike and widens the digit, so that it leans again by a
    # degree or two.
    level = sheared(level, -lean(_coverage(level)))
    if kind == "fractured":
        level = fracture(level, position, _GAP_PIXELS * ENLARGEMENT)
    elif kind == "swollen":
        level = swell(level, position, _SWELLING_STRENGTH, _SWELLING_REACH_PIXELS * ENLARGEMENT)
    return np.rint(sheared(_pixels(level), -np.tan(slant))).astype(np.uint8)


def _upright_stroke(digit: np.ndarray, thickness: float, room_for_shear: float) -> np.ndarray:
    """Returns the digit's strokes, (H, W) bool, upright, centred in the frame, and shrunk to fit once sheared."""
    bright = digit.max() / 2
    shear = np.array([[1.0, 0.0], [-lean(digit), 1.0]])  # of (row, column)
    skeleton = np.argwhere(skeletonize(digit > bright)) @ shear.T
    low, high = skeleton.min(axis=0), skeleton.max(axis=0)
    centred = (skeleton - (low + high) / 2) @ np.array([[1.0, 0.0], [room_for_shear, 1.0]]).T
    room = np.array(digit.shape) - thickness - 2 * _MARGIN_PIXELS * ENLARGEMENT
    scale = min(1.0, (room / np.maximum(2 * np.abs(centred).max(axis=0), 1.0)).min())
    back = np.linalg.inv(scale * shear)
    middle = (np.array(digit.shape) - 1) / 2
    offset = np.linalg.solve(shear, (low + high) / 2) - back @ middle
    return ndimage.affine_transform(digit, back, offset, order=1) > bright


def _with_thickness(stroke: np.ndarray, thickness: float) -> np.ndarray:
    """Returns the strokes' level, grown or shrunk until their mean thickness, as measured on pixels, is `thickness`."""
    skeleton = skeletonize(stroke)
    inside = ndimage.distance_transform_edt(stroke)
    distance = np.where(stroke, inside - 0.5, 0.5 - ndimage.distance_transform_edt(~stroke))
    core = _LEAST_SHARE * thickness / 2 - ndimage.distance_transform_edt(~skeleton)
    growth = thickness / 2 - inside[skeleton].mean()
    for _ in range(_THICKNESS_ROUNDS):  # the thickness jumps when strokes merge or loops close
        seen = ndimage.gaussian_filter(_coverage(np.maximum(distance + growth, core)), _PIXEL_BLUR) > 0.5
        growth += (thickness - mean_thickness(seen, skeletonize(seen))) / 2
    return np.maximum(distance + growth, core)


def sheared(level: np.ndarray, shear: float, *, fixed_row: float | None = None, order: int = 1) -> np.ndarray:
    """Moves each row to the right by `shear` times its distance below a row.

    Args:
      level: (height, width) image.
      shear: tangent of the angle.
      fixed_row: row that does not move, possibly fractional, or None for the middle.
      order: order of the splines between pixels.
    """
    back = np.array([[1.0, 0.0], [-shear, 1.0]])
    fixed = (np.array(level.shape) - 1) / 2
    if fixed_row is not None:
        fixed[0] = fixed_row
    return ndimage.affine_transform(level, back, fixed - back @ fixed, order=order, mode="nearest")


def _coverage(level: np.ndarray) -> np.ndarray:
    """Returns the share of each subpixel that the strokes cover, 0 to 1."""
    return np.clip(level + 0.5, 0.0, 1.0)


def _pixels(level: np.ndarray) -> np.ndarray:
    height, width = (length // ENLARGEMENT for length in level.shape)
    covered = _coverage(level).reshape(height, ENLARGEMENT, width, ENLARGEMENT)
    return np.rint(255 * covered.mean(axis=(1, 3)))
