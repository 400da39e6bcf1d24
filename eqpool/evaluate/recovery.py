"""Accuracy with which a statistical map finds the known effect of a simulated cohort."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from eqpool.evaluate.intervals import bootstrap_draws, percentile_interval
from eqpool.evaluate.statistics import is_estimable, t_map

_MATCHED_RATE = 0.05
STRENGTHS = 2**25  # |t| values in memory at once, over all draws (256 MB)
_UNAFFECTED = 1.0  # thousandths of white matter; less than a twentieth of the simulated scanners' noise

Tiles = Callable[[], Iterable[np.ndarray]]


def is_unaffected(effect: np.ndarray) -> np.ndarray:
    """Returns a mask (V,) of the voxels with a negligible effect (V,), which is in thousandths of white matter.

    The mask includes at least the tenth of the voxels with the smallest effects.
    """
    least_tenth = np.quantile(np.abs(effect), 0.1) if effect.size else _UNAFFECTED
    return np.abs(effect) <= max(_UNAFFECTED, float(least_tenth))


def detection_scores(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Computes sensitivity and specificity of the found voxels, (V,) bool; NaN if no voxel is affected, or every one.

    `truth`, (V,) bool, marks the affected voxels. All other voxels count as unaffected.
    """
    return {"sensitivity": _share(found[truth]), "specificity": _share(~found[~truth])}


def matched_detection(strength: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Scores a map by the order of its voxels, independently of any significance threshold.

    Args:
      strength: (V,), strength of the effect in each voxel, such as |t|.
      truth: (V,) bool, mask of the affected voxels.

    Returns:
      `sensitivity_at_matched_rate`, the share of affected voxels above the threshold that 5% of the unaffected voxels
      exceed, and `auc`, the area under the ROC curve. Both are NaN if no voxel or every voxel is affected, or a
      strength is NaN.
    """
    return {
        "sensitivity_at_matched_rate": _matched_sensitivity(strength, truth),
        "auc": float(roc_auc_score(truth, strength)) if _is_ranked(strength, truth) else float("nan"),
    }


def detection_gain(
    before: Tiles,
    after: Tiles,
    of_interest: np.ndarray,
    nuisance: np.ndarray,
    truth: np.ndarray,
    subject: np.ndarray,
    *,
    bootstraps: int = 200,
) -> dict[str, Any]:
    """Computes the gain in sensitivity at the matched rate from the t-map `before` to the t-map `after`.

    The volumes are never in memory all at once. Their tiles are read again for every few draws.

    Args:
      before, after: functions that return the tiles (N, T) of the same scans in one form of the volumes. The tiles
        cover V voxels together. Each function is called several times.
      of_interest, nuisance: (N,) and (N, C), regressors of `t_map`.
      truth: (V,) bool, mask of the affected voxels.
      subject: (N,) identifiers of the subjects. All scans of a subject are drawn together.
      bootstraps: number of draws of subjects, which both forms share.

    Returns:
      `sensitivity_gain`, and `sensitivity_gain_interval`, its 95% interval over subjects.
    """
    count = len(of_interest)
    draws = [np.arange(count), *bootstrap_draws(count, bootstraps, 0, subject)]
    estimable = np.array([is_estimable(of_interest[rows][:, None], nuisance[rows]) for rows in draws])
    gains = np.full(len(draws), np.nan)  # stays NaN for draws in which the target's effect is not estimable
    kept = [rows for rows, usable in zip(draws, estimable, strict=True) if usable]
    found = [_sensitivities(tiles, kept, of_interest, nuisance, truth) for tiles in (before, after)]
    gains[estimable] = found[1] - found[0]
    return {"sensitivity_gain": float(gains[0]), "sensitivity_gain_interval": percentile_interval(gains[1:])}


def _sensitivities(
    tiles: Tiles, draws: list[np.ndarray], of_interest: np.ndarray, nuisance: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """Computes the sensitivity at the matched rate for the t-map of each of B draws of rows, (B,)."""
    together, found = max(1, STRENGTHS // len(truth)), []
    for start in range(0, len(draws), together):
        some, strength = draws[start : start + together], []
        for tile in tiles():
            strength.append([np.abs(t_map([tile[rows]], of_interest[rows], nuisance[rows]).t) for rows in some])
        whole = (np.concatenate([part[number] for part in strength]) for number in range(len(some)))
        found += [_matched_sensitivity(values, truth) for values in whole]
    return np.array(found)


def _matched_sensitivity(strength: np.ndarray, truth: np.ndarray) -> float:
    if not _is_ranked(strength, truth):
        return float("nan")
    return float((strength[truth] > np.quantile(strength[~truth], 1 - _MATCHED_RATE)).mean())


def _is_ranked(strength: np.ndarray, truth: np.ndarray) -> bool:
    """Whether there are voxels of both kinds, and a strength of each."""
    return bool(truth.any() and not truth.all() and not np.isnan(strength).any())


def _share(found: np.ndarray) -> float:
    return float(found.mean()) if found.size else float("nan")
