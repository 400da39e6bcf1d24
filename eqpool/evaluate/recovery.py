"""How well a map finds a known effect: simulated cohorts carry the truth."""

import numpy as np
from sklearn.metrics import roc_auc_score

MATCHED_RATE = 0.05


def detection_scores(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Sensitivity and specificity of found voxels against truly affected ones, both (V,) bool."""
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
