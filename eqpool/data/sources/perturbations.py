"""A digit's two diseases: a stroke broken at one place, and a stroke swollen at one place.

A digit is given as its `level`: (H, W) float64, the signed distance to the strokes' edge in pixels of that grid,
positive inside. Both functions return the level of the perturbed digit, so that edges keep their subpixel place.
Lengths are in pixels of the grid too. Places lie on the skeleton, where strokes do not run into one another.
"""

import dataclasses

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

_TANGENT_REACH = 7.0  # how far along the skeleton a stroke's direction is looked for
_FREE = 2.0  # between a swelling and the frame
_BLOT = 1.25  # where the digit is this much wider than its median, strokes have run into one another


def fracture(level: np.ndarray, position: float, gap: float) -> np.ndarray:
    """Cuts once across a stroke, away from tips and forks.

    Args:
      level: (H, W), the signed distance to the strokes' edge.
      position: in [0, 1): which of the possible places.
      gap: width of the cut.
    """
    strokes = _strokes(level)
    clearance = strokes.to_end - strokes.radius
    enough = min(gap, np.quantile(clearance, 0.9, method="lower"))  # a crowded digit: where there is most room
    place = _pick(clearance >= enough, position)
    tangent = _tangent(strokes.skeleton, strokes.points[place])
    offset = np.indices(level.shape).transpose(1, 2, 0) - strokes.points[place]
    along = np.abs(offset @ tangent) - gap / 2
    across = np.abs(offset @ (-tangent[1], tangent[0])) - (strokes.radius[place] + gap)
    return np.minimum(level, np.maximum(along, across))


def swell(level: np.ndarray, position: float, strength: float, reach: float) -> np.ndarray:
    """Blows a stroke up around a place that leaves the swelling room in the frame.

    What lies at distance r < reach from there comes to lie at reach (r / reach)^(1 / strength).

    Args:
      level: (H, W), the signed distance to the strokes' edge.
      position: in [0, 1): which of the possible places.
      strength: 1 changes nothing.
      reach: how far from the place anything changes.
    """
    strokes = _strokes(level)
    # The farthest ink on each side bounds how far the swelling comes towards that side of the frame.
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
    """Where a digit is a plain stroke: P points of its skeleton.

    Attributes:
      skeleton: (K, 2) all of the skeleton, rows and columns.
      points: (P, 2) the plain ones.
      radius: (P,) half the stroke's width.
      to_end: (P,) distance to the nearest tip or fork; infinite on a ring.
    """

    skeleton: np.ndarray
    points: np.ndarray
    radius: np.ndarray
    to_end: np.ndarray


def _strokes(level: np.ndarray) -> _Strokes:
    inside = level > 0
    skeleton = skeletonize(inside)
    everywhere = np.argwhere(skeleton)
    radius = ndimage.distance_transform_edt(inside)[skeleton]  # the level is too low where strokes have merged
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
    """(2,) unit vector along the skeleton at a point of it: the main axis of what is nearby."""
    nearby = skeleton[np.linalg.norm(skeleton - place, axis=1) <= _TANGENT_REACH] - place
    return np.linalg.eigh(nearby.T @ nearby)[1][:, -1]


def _pick(possible: np.ndarray, position: float) -> int:
    places = np.flatnonzero(possible)
    return int(places[int(position * len(places))])
