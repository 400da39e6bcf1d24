from functools import partial

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_curve

from eqpool.evaluate.intervals import bootstrap_interval
from eqpool.evaluate.recovery import detection_gain, detection_scores, is_unaffected, matched_detection
from eqpool.evaluate.statistics import is_estimable, t_map

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
    scores = matched_detection(STRENGTH, TRUTH)
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
    better = detection_gain(lambda: [noisy], lambda: [clean], ill, age, truth, np.arange(80), bootstraps=40)
    assert better["sensitivity_gain"] > 0.1 and better["sensitivity_gain_interval"][0] > 0
    same = detection_gain(lambda: [clean], lambda: [clean], ill, age, truth, np.arange(80), bootstraps=5)
    assert same == {"sensitivity_gain": 0.0, "sensitivity_gain_interval": (0.0, 0.0)}


def test_scans_of_a_person_are_drawn_together():
    """A second, equal scan of everyone adds no information: the interval is that of one scan each."""
    random = np.random.default_rng(3)
    truth = np.arange(300) < 60
    ill, age = (np.arange(24) % 2).astype(float), random.normal(size=(24, 1))
    after = 0.8 * ill[:, None] * truth + random.normal(size=(24, 300))
    before = after + random.normal(size=after.shape)

    def interval(times: int, subject: np.ndarray) -> tuple[float, float]:
        twice = [np.repeat(form, times, axis=0) for form in (before, after)]
        design = np.repeat(ill, times), np.repeat(age, times, axis=0)
        tiles = [lambda form=form: [form] for form in twice]
        return detection_gain(*tiles, *design, truth, subject, bootstraps=100)["sensitivity_gain_interval"]

    once = interval(1, np.arange(24))
    assert interval(2, np.repeat(np.arange(24), 2)) == pytest.approx(once, abs=1e-12)


def direct_gain(before, after, of_interest, nuisance, truth, subject, bootstraps):
    """`detection_gain` as it reads: whole maps of whole volumes, draw by draw."""

    def gain(rows):
        design = of_interest[rows], nuisance[rows]
        if not is_estimable(design[0][:, None], design[1]):
            return np.nan
        scores = [matched_detection(np.abs(t_map([form[rows]], *design).t), truth) for form in (before, after)]
        return scores[1]["sensitivity_at_matched_rate"] - scores[0]["sensitivity_at_matched_rate"]

    return {
        "sensitivity_gain": gain(np.arange(len(before))),
        "sensitivity_gain_interval": bootstrap_interval(gain, len(before), bootstraps, 0, subject),
    }


@pytest.mark.parametrize("scans", [1, 2])  # of each person
@pytest.mark.parametrize("people", [60, 7])  # of seven a draw may hold no ill one, and has no map
@pytest.mark.parametrize("strengths", [1, 1000, 2**25])  # one draw at once, a few, all
def test_tiles_find_what_whole_volumes_do(people, scans, strengths, monkeypatch):
    monkeypatch.setattr("eqpool.evaluate.recovery.STRENGTHS", strengths)
    random = np.random.default_rng(2)
    truth = random.uniform(size=211) < 0.3
    subject = np.arange(people * scans) // scans
    ill, age = (subject % 3 == 0).astype(float), random.normal(size=(people * scans, 1))
    after = 0.8 * ill[:, None] * truth + random.normal(size=(people * scans, 211))
    after[:, 5] = 0.0  # a voxel that is constant
    before = after + random.normal(size=after.shape)
    tiles = [partial(np.array_split, form, [50, 50, 130], axis=1) for form in (before, after)]  # one of no voxel
    found = detection_gain(*tiles, ill, age, truth, subject, bootstraps=30)
    expected = direct_gain(before, after, ill, age, truth, subject, 30)
    assert found["sensitivity_gain"] == pytest.approx(expected["sensitivity_gain"], abs=1e-12)
    assert found["sensitivity_gain_interval"] == pytest.approx(expected["sensitivity_gain_interval"], abs=1e-12)


def test_without_voxels_of_both_kinds_or_with_a_strength_that_is_nan_nothing_is_defined():
    nowhere, lost = np.zeros(500, bool), np.where(TRUTH, np.nan, STRENGTH)
    assert np.isnan(detection_scores(TRUTH, nowhere)["sensitivity"])
    assert np.isnan(detection_scores(TRUTH, ~nowhere)["specificity"])
    for strength, truth in ((STRENGTH, nowhere), (STRENGTH, ~nowhere), (lost, TRUTH)):
        assert np.isnan(list(matched_detection(strength, truth).values())).all()
    assert is_unaffected(np.zeros(0)).shape == (0,)
