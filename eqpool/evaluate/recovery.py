"""How well a map finds a known effect: simulated cohorts carry the truth."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from eqpool.evaluate.intervals import bootstrap_draws, percentile_interval
from eqpool.evaluate.statistics import is_estimable, t_map

MATCHED_RATE = 0.05
STRENGTHS = 2**25  # |t| of so many voxels, over several draws, are kept at once: 256 MB
UNAFFECTED = 1.0  # thousandths of white matter: less than a twentieth of the simulated scanners' noise

Tiles = Callable[[], Iterable[np.ndarray]]


def is_unaffected(effect: np.ndarray) -> np.ndarray:
    """(V,) bool: where an effect (V,), in thousandths of white matter, is none to speak of; a tenth of it at least."""
    least_tenth = np.quantile(np.abs(effect), 0.1) if effect.size else UNAFFECTED
    return np.abs(effect) <= max(UNAFFECTED, float(least_tenth))


def detection_scores(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Sensitivity and specificity of found voxels against truly affected ones, both (V,) bool; the others have none.

    NaN where no voxel is affected, or where all are.
    """
    return {"sensitivity": _share(found[truth]), "specificity": _share(~found[~truth])}


def matched_detection(strength: np.ndarray, truth: np.ndarray, rate: float = MATCHED_RATE) -> dict[str, float]:
    """What a map ranks highest against the truth, whatever its own threshold.

    Args:
      strength: (V,), such as |t|.
      truth: (V,) bool, truly affected.
      rate: share of unaffected voxels that may be found.

    Returns:
      `sensitivity_at_matched_rate`, the share of affected voxels above the threshold at which `rate` of the others
      are, and `auc`, the area under the whole curve; NaN where no voxel or every voxel is affected, or a strength is
      NaN.
    """
    return {
        "sensitivity_at_matched_rate": _matched_sensitivity(strength, truth, rate),
        "auc": float(roc_auc_score(truth, strength)) if _is_ranked(strength, truth) else float("nan"),
    }


def detection_gain(
    before: Tiles,
    after: Tiles,
    of_interest: np.ndarray,
    nuisance: np.ndarray,
    truth: np.ndarray,
    *,
    bootstraps: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """By how much `matched_detection` finds more in the t-map of one form of the volumes than in that of another.

    The volumes never stand in memory together: their tiles are read again for every few draws.

    Args:
      before, after: give, each time they are called, the same people's voxels in both forms: (N, T) tiles, whose voxels
        together are V.
      of_interest, nuisance: (N,) and (N, C), as for `t_map`.
      truth: (V,) bool, truly affected.
      bootstraps: draws of people, the same ones for both forms.
      seed: of the draws.

    Returns:
      `sensitivity_gain`, of the sensitivity at the matched rate, and `sensitivity_gain_interval`, 95% over people.
    """
    count = len(of_interest)
    draws = [np.arange(count), *bootstrap_draws(count, bootstraps, seed)]
    estimable = np.array([is_estimable(of_interest[rows][:, None], nuisance[rows]) for rows in draws])
    gains = np.full(len(draws), np.nan)  # of a draw in which the target is not to be told, undefined
    kept = [rows for rows, usable in zip(draws, estimable, strict=True) if usable]
    found = [_sensitivities(tiles, kept, of_interest, nuisance, truth) for tiles in (before, after)]
    gains[estimable] = found[1] - found[0]
    return {"sensitivity_gain": float(gains[0]), "sensitivity_gain_interval": percentile_interval(gains[1:])}


def _sensitivities(
    tiles: Tiles, draws: list[np.ndarray], of_interest: np.ndarray, nuisance: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """(B,) at the matched rate, of the t-map of each of B draws of rows; each t-map as `t_map` makes it."""
    together, found = max(1, STRENGTHS // len(truth)), []
    for start in range(0, len(draws), together):
        some, strength = draws[start : start + together], []
        for tile in tiles():
            strength.append([np.abs(t_map([tile[rows]], of_interest[rows], nuisance[rows]).t) for rows in some])
        whole = (np.concatenate([part[number] for part in strength]) for number in range(len(some)))
        found += [_matched_sensitivity(values, truth, MATCHED_RATE) for values in whole]
    return np.array(found)


def _matched_sensitivity(strength: np.ndarray, truth: np.ndarray, rate: float) -> float:
    if not _is_ranked(strength, truth):
        return float("nan")
    return float((strength[truth] > np.quantile(strength[~truth], 1 - rate)).mean())


def _is_ranked(strength: np.ndarray, truth: np.ndarray) -> bool:
    """Whether there are voxels of both kinds, and a strength of each."""
    return bool(truth.any() and not truth.all() and not np.isnan(strength).any())


def _share(found: np.ndarray) -> float:
    return float(found.mean()) if found.size else float("nan")
