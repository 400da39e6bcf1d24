"""How well a map finds a known effect: simulated cohorts carry the truth."""

from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from eqpool.evaluate.intervals import bootstrap_interval
from eqpool.evaluate.statistics import is_estimable, t_map

MATCHED_RATE = 0.05
UNAFFECTED = 1.0  # thousandths of white matter: less than a twentieth of the simulated scanners' noise


def is_unaffected(effect: np.ndarray) -> np.ndarray:
    """(V,) bool: where an effect (V,), in thousandths of white matter, is none to speak of; a tenth of it at least."""
    return np.abs(effect) <= max(UNAFFECTED, float(np.quantile(np.abs(effect), 0.1)))


def detection_scores(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Sensitivity and specificity of found voxels against truly affected ones, both (V,) bool; the others have none."""
    return {"sensitivity": float(found[truth].mean()), "specificity": float((~found[~truth]).mean())}


def matched_detection(strength: np.ndarray, truth: np.ndarray, rate: float = MATCHED_RATE) -> dict[str, float]:
    """What a map ranks highest against the truth, whatever its own threshold.

    Args:
      strength: (V,), such as |t|.
      truth: (V,) bool, truly affected.
      rate: share of unaffected voxels that may be found.

    Returns:
      `sensitivity_at_matched_rate`, the share of affected voxels above the threshold at which `rate` of the others
      are, and `auc`, the area under the whole curve.
    """
    threshold = np.quantile(strength[~truth], 1 - rate)
    return {
        "sensitivity_at_matched_rate": float((strength[truth] > threshold).mean()),
        "auc": float(roc_auc_score(truth, strength)),
    }


def detection_gain(
    before: np.ndarray,
    after: np.ndarray,
    of_interest: np.ndarray,
    nuisance: np.ndarray,
    truth: np.ndarray,
    *,
    bootstraps: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """By how much `matched_detection` finds more in the t-map of one form of the volumes than in that of another.

    Args:
      before, after: (N, V) the same people's voxels in both forms.
      of_interest, nuisance: (N,) and (N, C), as for `t_map`.
      truth: (V,) bool, truly affected.
      bootstraps: draws of people, the same ones for both forms.
      seed: of the draws.

    Returns:
      `sensitivity_gain`, of the sensitivity at the matched rate, and `sensitivity_gain_interval`, 95% over people.
    """

    def gain(rows: np.ndarray) -> float:
        design = of_interest[rows], nuisance[rows]
        if not is_estimable(design[0][:, None], design[1]):
            return float("nan")
        scores = [matched_detection(np.abs(t_map([form[rows]], *design).t), truth) for form in (before, after)]
        return scores[1]["sensitivity_at_matched_rate"] - scores[0]["sensitivity_at_matched_rate"]

    return {
        "sensitivity_gain": gain(np.arange(len(before))),
        "sensitivity_gain_interval": bootstrap_interval(gain, len(before), bootstraps, seed),
    }
