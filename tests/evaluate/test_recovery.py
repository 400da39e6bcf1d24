import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_curve

from eqpool.evaluate.recovery import detection_gain, detection_scores, is_unaffected, matched_detection

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


def test_the_least_tenth_is_unaffected_where_everything_is_changed():
    assert is_unaffected(np.array([0.0, 1.0, -1.0, 1.1, 50.0])).tolist() == [True, True, True, False, False]
    assert is_unaffected(np.linspace(5, 60, 40)).sum() == 4


def test_a_gain_is_seen_where_noise_was_removed_and_not_where_nothing_was_done():
    random = np.random.default_rng(1)
    truth = np.arange(300) < 60
    ill, age = (np.arange(80) % 2).astype(float), random.normal(size=(80, 1))
    clean = 0.5 * ill[:, None] * truth + 0.3 * age + random.normal(size=(80, 300))
    noisy = clean + 2.0 * random.normal(size=clean.shape)
    better = detection_gain(noisy, clean, ill, age, truth, bootstraps=40)
    assert better["sensitivity_gain"] > 0.1 and better["sensitivity_gain_interval"][0] > 0
    same = detection_gain(clean, clean, ill, age, truth, bootstraps=5)
    assert same == {"sensitivity_gain": 0.0, "sensitivity_gain_interval": (0.0, 0.0)}
