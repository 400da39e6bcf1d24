import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_curve

from eqpool.evaluate.recovery import detection_scores, matched_detection

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.uniform(size=500) < 0.2
STRENGTH = RANDOM.normal(size=500) + 1.5 * TRUTH


def test_sensitivity_and_specificity_are_recalls():
    found = STRENGTH > 1
    scores = detection_scores(found, TRUTH)
    assert scores["sensitivity"] == pytest.approx(recall_score(TRUTH, found))
    assert scores["specificity"] == pytest.approx(recall_score(~TRUTH, ~found))


def test_the_matched_rate_is_a_point_of_the_curve():
    false_rate, true_rate, _ = roc_curve(TRUTH, STRENGTH, drop_intermediate=False)
    expected = true_rate[false_rate <= 0.05].max()
    scores = matched_detection(STRENGTH, TRUTH, 0.05)
    assert scores["sensitivity_at_matched_rate"] == pytest.approx(expected, abs=0.02)
    assert scores["auc"] == pytest.approx(np.trapezoid(true_rate, false_rate))
