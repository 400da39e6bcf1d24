"""Draws a digit's two diseases: a stroke broken at one place, or a stroke swollen at one place.

A digit is given as its `level`: (H, W) float64, the signed distance to the strokes' edge in pixels of that grid,
positive inside. Both functions return the level of the perturbed digit, so that edges keep their subpixel position.
Lengths are in pixels of the grid too. Places lie on the parts of the skeleton where strokes have not merged.
"""

import dataclasses

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

_TANGENT_REACH = 7.0  # radius within which the skeleton gives a stroke's direction
_FREE = 2.0  # distance kept between a swelling and the frame
_BLOT = 1.25  # strokes count as merged at this multiple of the median width


def fracture(level: np.ndarray, position: float, gap: float) -> np.ndarray:
    """Cuts once across a stroke, away from tips and forks.

    Args:
      level: (H, W) signed distance to the strokes' edge.
      position: number in [0, 1) that selects one of the possible places.
      gap: width of the cut.
    """
    strokes = _strokes(level)
    clearance = strokes.to_end - strokes.radius
    enough = min(gap, np.quantile(clearance, 0.9, method="lower"))  # in a crowded digit, the roomiest places
    place = _pick(clearance >= enough, position)
    tangent = _tangent(strokes.skeleton, strokes.points[place])
    offset = np.indices(level.shape).transpose(1, 2, 0) - strokes.points[place]
    along = np.abs(offset @ tangent) - gap / 2
    across = np.abs(offset @ (-tangent[1], tangent[0])) - (strokes.radius[place] + gap)
    return np.minimum(level, np.maximum(along, across))


def swell(level: np.ndarray, position: float, strength: float, reach: float) -> np.ndarray:
    """Enlarges a stroke around a place at which the swelling fits into the frame.

    A point at distance r < reach from the place moves to the distance reach (r / reach)^(1 / strength).

    Args:
      level: (H, W) signed distance to the strokes' edge.
      position: number in [0, 1) that selects one of the possible places.
      strength: strength of the swelling; 1 changes nothing.
      reach: radius around the place within which the digit changes.
    """
    strokes = _strokes(level)
    # The farthest ink on each side limits the swelling towards that side of the frame.
    ink = np.argwhere(level > 0)
    to_edge = np.hstack([strokes.points - ink.min(axis=0), ink.max(axis=0) - strokes.points])
    to_frame = np.hstack([strokes.points, np.array(level.shape) - 1 - strokes.points])
    room = (to_frame - reach * np.minimum(to_edge / reach, 1.0) ** (1 / strength)).min(axis=1)
    centre = strokes.points[_pick(room >= min(_FREE, room.max()), position)][:, None, None]
    offset = np.indices(level.shape) - centre
    shrink = np.minimum(np.linalg.norm(offset, axis=0) / reach, 1.0) ** (strength - 1)
    return ndimage.map_coordinates(level, centre + shrink * offset, order=1, mode="nearest")


@dataclasses.dataclass(frozen=True)
class _Strokes:
    """A digit's skeleton, and its P points at which strokes have not merged.

    Attributes:
      skeleton: (K, 2) rows and columns of all points of the skeleton.
      points: (P, 2) points at which strokes have not merged.
      radius: (P,) half the stroke's width.
      to_end: (P,) distance to the nearest tip or fork, infinite on a ring.
    """

    skeleton: np.ndarray
    points: np.ndarray
    radius: np.ndarray
    to_end: np.ndarray


def _strokes(level: np.ndarray) -> _Strokes:
    inside = level > 0
    skeleton = skeletonize(inside)
    everywhere = np.argwhere(skeleton)
    radius = ndimage.distance_transform_edt(inside)[skeleton]  # the level is too low if strokes have merged
    plain = radius <= _BLOT * np.median(radius)
    points = everywhere[plain]
    neighbours = ndimage.convolve(skeleton.astype(np.int8), np.ones((3, 3), np.int8), mode="constant")[skeleton] - 1
    between = np.linalg.norm(points[:, None] - everywhere[neighbours != 2], axis=-1)
    return _Strokes(
        skeleton=everywhere,
        points=points,
        radius=radius[plain],
        to_end=between.min(axis=1, initial=np.inf),
    )


def _tangent(skeleton: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Returns the skeleton's direction at one of its points, the main axis of nearby points, as a (2,) unit vector."""
    nearby = skeleton[np.linalg.norm(skeleton - place, axis=1) <= _TANGENT_REACH] - place
    return np.linalg.eigh(nearby.T @ nearby)[1][:, -1]


def _pick(possible: np.ndarray, position: float) -> int:
    places = np.flatnonzero(possible)
    return int(places[int(position * len(places))])
