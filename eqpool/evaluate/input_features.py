"""The inputs of a cohort as features that linear models and trees read."""

import numpy as np

from eqpool.data.cohort import Cohort
from eqpool.data.volumes.inputs import Grid

MOST_VOXELS = 10_000


def input_features(cohort: Cohort, rows: np.ndarray) -> np.ndarray:
    """Returns what the networks receive of some rows, (R, F) float32: columns, or voxels of `sub_grid`."""
    if cohort.volumes is None:
        return np.asarray(cohort.inputs[rows], np.float32).reshape(len(rows), -1)
    voxels = np.flatnonzero(sub_grid(cohort.volumes.grid))
    features = np.empty((len(rows), len(voxels)), np.float32)
    for place, row in enumerate(rows):  # one volume in memory at a time
        features[place] = np.asarray(cohort.inputs[int(row)]).ravel()[voxels]
    return features


def sub_grid(grid: Grid, most: int = MOST_VOXELS) -> np.ndarray:
    """Returns a bool mask of `grid.shape`: the brain's voxels on the finest regular sub-grid with at most `most`."""
    steps = [1, 1, 1]
    while True:
        kept = np.zeros(grid.shape, bool)
        kept[tuple(slice(step // 2, None, step) for step in steps)] = True
        kept &= grid.mask
        if kept.sum() <= most:
            return kept
        steps[int(np.argmin(steps))] += 1
