"""Weights whose sums of rows show what the mean of a site's rows is uncertain by, with its pattern over voxels."""

import numpy as np

CONTRASTS = 2  # of each site; their squares are averaged over neighbouring voxels, so that few are enough
_SEED = 1


def noise_weights(terms: np.ndarray, site: np.ndarray, num_sites: int) -> np.ndarray:
    """Returns (S, K, N) random weights of the rows, K contrasts of each of S sites.

    The weights of a site are 0 for the rows of others and orthogonal to a constant and to the terms of its own rows,
    whose effects therefore cancel. Their squares sum to 1, so that the sum of rows varies as much as one row does
    about the fit. A site with too few rows for a contrast has weights of 0.

    Args:
      terms: (N, P) terms of the rows.
      site: (N,) int, index of each row's site, below 0 for rows to ignore.
      num_sites: S.
    """
    random, weights = np.random.default_rng(_SEED), np.zeros((num_sites, CONTRASTS, len(site)))
    for index in range(num_sites):
        rows = np.flatnonzero(site == index)
        drawn = random.standard_normal((CONTRASTS, len(rows)))
        design = np.column_stack([np.ones(len(rows)), terms[rows]])
        if len(rows) <= design.shape[1]:
            continue
        left = drawn - drawn @ design @ np.linalg.pinv(design)
        weights[index][:, rows] = left / np.linalg.norm(left, axis=1, keepdims=True)
    return weights
