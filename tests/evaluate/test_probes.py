"""The panel proved on planted truth: what is there is found, what is not there is not."""

import dataclasses
import functools

import numpy as np
import pytest

from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.evaluate import site_metrics
from eqpool.evaluate.adversary import adversary_scores
from eqpool.evaluate.intervals import area_under_curve, balanced_accuracy
from eqpool.evaluate.outputs import Embeddings
from eqpool.evaluate.predictions import target_metrics
from eqpool.evaluate.probes import (
    ADVERSARY,
    LIBRARY_PROBES,
    PROBES,
    ProbeScore,
    probe_panel,
    site_floor_features,
    strongest,
    strongest_by_chance,
)
from eqpool.evaluate.readout import read_covariate

CONFIG = EvaluateConfig(adversary_epochs=60, adversary_learning_rate=3e-3, probe_seeds=2, probe_folds=2, bootstraps=100)
TRAIN, TEST = np.arange(600), np.arange(600, 1000)


def panel(features, site, subject=None, train=TRAIN, test=TEST, num_sites=2, folds=CONFIG.probe_folds):
    subject = np.arange(len(site)) if subject is None else subject
    config = dataclasses.replace(CONFIG, probe_folds=folds)
    return probe_panel(features, site, subject, train, test, config=config, num_sites=num_sites)


def noise(seed: int = 0, rows: int = 1000):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, 6)).astype(np.float32), generator.integers(0, 2, rows)


def test_features_without_site_information_score_chance():
    features, site = noise()
    for score in panel(features, site):
        low, high = score.balanced_accuracy_interval
        assert abs(score.balanced_accuracy - 0.5) < 0.08, score
        assert low < score.balanced_accuracy < high
        assert low < 0.53 and high > 0.47


def test_a_signal_that_only_a_nonlinear_probe_sees_is_caught():
    features, _ = noise()
    site = ((features[:, 0] > 0) ^ (features[:, 1] > 0)).astype(np.int64)
    scores = panel(features, site)
    assert max(score.balanced_accuracy for score in scores if score.probe == "logistic") < 0.6
    for design in ("transfer", "within"):
        assert max(score.balanced_accuracy for score in scores if score.design == design) > 0.8
    assert strongest(scores).balanced_accuracy > 0.9


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_latent_that_is_scaled_down_is_caught(scale):
    features, site = noise()
    features[:, 2] += 2 * site
    best = strongest(panel(scale * features, site))
    assert best.balanced_accuracy > 0.8
    assert best.auc > 0.85


def test_a_small_site_is_weighed_as_much_as_a_large_one():
    features, _ = noise()
    site = (np.arange(1000) % 20 == 0).astype(np.int64)
    features[:, 0] += 4 * site
    assert strongest(panel(features, site)).balanced_accuracy > 0.9


def test_a_subjects_rows_never_straddle_the_folds():
    """Features that only name the subject tell the site perfectly if, and only if, a subject straddles."""
    generator = np.random.default_rng(0)
    subject = np.repeat(np.arange(250), 4)
    site_of_subject = generator.integers(0, 2, 250)
    site = site_of_subject[subject]
    features = generator.normal(size=(250, 6))[subject].astype(np.float32)
    scores = panel(features, site, subject, folds=5)
    assert all(abs(score.balanced_accuracy - 0.5) < 0.15 for score in scores)
    straddling = panel(features, site, np.arange(1000), folds=5)
    assert max(score.balanced_accuracy for score in straddling if score.design == "within") > 0.9


def test_three_sites_and_one_too_small_to_split():
    features, _ = noise()
    site = np.arange(1000) % 3
    features[:, 0] += 3 * site
    assert strongest(panel(features, site, num_sites=3)).balanced_accuracy > 0.8
    site = np.where(np.arange(1000) == 999, 2, np.arange(1000) % 2)
    assert {score.design for score in panel(features, site, num_sites=3)} == {"transfer", "within"}
    site = np.arange(1000) % 3
    site[TEST] = np.where(TEST < 998, 0, TEST - 997)  # of the held-out rows one site alone can be split
    assert {score.design for score in panel(features, site, num_sites=3)} == {"transfer"}


def test_more_seeds_than_one_are_averaged():
    features, site = noise()
    one = dataclasses.replace(CONFIG, probe_seeds=1)
    few = probe_panel(features, site, np.arange(1000), TRAIN, TEST, config=one, num_sites=2)
    assert [score.probe for score in few] == [score.probe for score in panel(features, site)]


def test_floor_features_hold_covariate_and_target_alone():
    floor = site_floor_features(np.array([[60.0], [70.0]]), np.array([1, 0]), ("AD", "CN"))
    np.testing.assert_array_equal(floor, [[60, 0, 1], [70, 1, 0]])
    numeric = site_floor_features(np.array([[60.0]]), np.array([3.5], np.float32), ())
    np.testing.assert_array_equal(numeric, [[60, 3.5]])


def test_scores_by_hand():
    truth, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert balanced_accuracy(truth, predicted) == pytest.approx((2 / 3 + 1) / 2)
    assert area_under_curve(truth, np.array([0.9, 0.8, 0.7, 0.1])) == 1  # either direction tells the site
    assert np.isnan(area_under_curve(np.zeros(3), np.arange(3.0)))


def no_scores(site):
    return []


def test_shuffled_sites_say_what_the_best_of_several_probes_reads_by_chance():
    features, site = noise(rows=240)
    subject, train, test = np.arange(240), np.arange(160), np.arange(160, 240)
    config = dataclasses.replace(CONFIG, adversary_epochs=20)

    def look(site, probes=PROBES):
        return probe_panel(features, site, subject, train, test, config=config, num_sites=2, probes=probes)

    both = (functools.partial(look, probes=probes) for probes in (LIBRARY_PROBES, (ADVERSARY,)))
    chance = strongest_by_chance(*both, site, subject, np.zeros(240, int), (train, test), 8)
    assert chance.shape == (8,)
    assert 0.5 < chance.mean() < 0.68  # above one half: it is the best of six
    assert chance.std() > 0
    features[:, 0] += 3 * site
    again = strongest_by_chance(look, no_scores, site, subject, np.zeros(240, int), (train, test), 8)
    told = strongest(look(site)).balanced_accuracy
    assert told > 0.85 > again.max()  # a site that is there is not in what shuffled ones read


def test_shuffling_deals_one_site_to_a_subject():
    subject = np.repeat(np.arange(12), 3)
    site = np.repeat(np.arange(12) % 3, 3)
    train, test = np.arange(18), np.arange(18, 36)
    seen = []

    def look(shuffled):
        seen.append(shuffled.copy())
        return [ProbeScore("logistic", "transfer", 0.5, 0.5, (0.4, 0.6), np.nan)]

    strongest_by_chance(look, no_scores, site, subject, np.zeros(36, int), (train, test), 5)
    assert len({tuple(shuffled) for shuffled in seen}) > 1
    for shuffled in seen:
        for rows in (train, test):
            np.testing.assert_array_equal(np.bincount(shuffled[rows]), np.bincount(site[rows]))
        assert all(len(set(shuffled[subject == one])) == 1 for one in range(12))


def test_shuffling_keeps_a_travelling_subject_travelling():
    """Ten people whose first visit is at one site and the second at the other, and six of one visit."""
    subject = np.concatenate([np.repeat(np.arange(10), 2), np.arange(10, 16)])
    site = np.concatenate([np.tile([0, 1], 5), np.tile([1, 0], 5), np.arange(6) % 2])
    seen = []

    def look(shuffled):
        seen.append(shuffled.copy())
        return [ProbeScore("logistic", "transfer", 0.5, 0.5, (0.4, 0.6), np.nan)]

    strongest_by_chance(look, no_scores, site, subject, np.zeros(26, int), (np.arange(26), np.arange(0)), 20)
    assert len({tuple(shuffled) for shuffled in seen}) > 10
    for shuffled in seen:
        assert (shuffled[0:20:2] != shuffled[1:20:2]).all()
        assert shuffled[:20].sum() == 10 and shuffled[20:].sum() == 3
    assert len({int(shuffled[:20:2].sum()) for shuffled in seen}) > 2  # whose first scan was where is shuffled too


def test_a_diagnosis_that_sites_have_in_other_shares_is_not_taken_for_a_scanner():
    """Features that tell the diagnosis alone, of which one site has 80 % and the other 20 %."""
    generator = np.random.default_rng(0)
    site = np.arange(400) % 2
    diagnosis = (generator.random(400) < np.where(site == 1, 0.8, 0.2)).astype(int)
    features = np.stack([diagnosis, generator.normal(size=400)], axis=1).astype(np.float32)
    subject, splits = np.arange(400), (np.arange(200), np.arange(200, 400))
    config = dataclasses.replace(CONFIG, adversary_epochs=20)

    def look(site):
        return probe_panel(features, site, subject, *splits, config=config, num_sites=2)

    told = strongest(look(site)).balanced_accuracy
    among_all = strongest_by_chance(look, no_scores, site, subject, np.zeros(400, int), splits, 6)
    within = strongest_by_chance(look, no_scores, site, subject, diagnosis, splits, 6)
    assert told > 0.7 > among_all.max()
    np.testing.assert_allclose(within, told, atol=0.06)


def test_shuffling_within_strata_deals_within_them_alone():
    subject = np.concatenate([np.repeat(np.arange(8), 2), np.arange(8, 16)])
    stratum = np.concatenate([np.repeat(np.arange(8) % 2, 2), np.arange(8) % 2])
    site = np.arange(24) // 2 % 3
    seen = []

    def look(shuffled):
        seen.append(shuffled.copy())
        return [ProbeScore("logistic", "transfer", 0.5, 0.5, (0.4, 0.6), np.nan)]

    strongest_by_chance(look, no_scores, site, subject, stratum, (np.arange(24),), 20)
    assert len({tuple(shuffled) for shuffled in seen}) > 10
    for shuffled in seen:
        for level in (0, 1):
            for rows in (np.arange(16), np.arange(16, 24)):
                chosen = rows[stratum[rows] == level]
                np.testing.assert_array_equal(np.sort(shuffled[chosen]), np.sort(site[chosen]))


def test_how_often_shuffled_sites_are_read_as_well_is_the_p_value(monkeypatch):
    site = (np.arange(40) % 2).astype(np.int32)
    read = []

    def panel(features, shuffled, subject, train, test, *, config, num_sites, within=True, probes=PROBES):
        if probes == LIBRARY_PROBES:
            return []
        read.append(float(np.mean(shuffled[test] == site[test])) if len(test) else 0.5)
        return [ProbeScore("mlp", "transfer", 0.5, read[-1], (0.4, 0.6), np.nan)]

    monkeypatch.setattr(site_metrics, "probe_panel", panel)
    cohort = Cohort(
        name="made_up", simulated=True, participant_id=np.arange(40).astype(str), inputs=np.zeros((40, 1), np.float32),
        site=site, site_names=("GE", "Siemens"), covariates=np.full((40, 1), 60.0),
        covariate_names=("age",), target=np.zeros(40, np.int32), target_name="dx", target_classes=("AD", "CN"),
        split=np.repeat(["train", "test"], 20),
    )  # fmt: skip
    blank = np.zeros((40, 2), np.float32)
    config = dataclasses.replace(CONFIG, probe_permutations=30)
    found = site_metrics.probe_metrics(cohort, Embeddings(blank, None, blank, blank, blank), config)
    told, shuffled = read[1], np.array(read[4:])  # Phi, without the covariate, before, validation; then the shuffled
    assert told == 1 and shuffled.shape == (30,) and shuffled.std() > 0
    assert found["strongest_probe_covariate_free_p_value"] == (1 + np.sum(shuffled >= told)) / 31
    assert found["strongest_probe_covariate_free_shuffled"] == pytest.approx(shuffled.mean())
    assert found["strongest_probe_covariate_free_shuffled_interval"] == pytest.approx(
        np.quantile(shuffled, [0.025, 0.975])
    )


def test_a_site_of_one_held_out_subject_leaves_the_others_their_cross_validation():
    """Features that are blind on the rows they were trained on, and tell the site on the held-out ones."""
    random = np.random.default_rng(0)
    site = np.concatenate([np.arange(120) % 3, np.arange(60) % 2, [2]])
    features = random.normal(size=(181, 3)).astype(np.float32)
    features[120:, 0] += 4 * site[120:]
    train, test = np.arange(120), np.arange(120, 181)
    scores = panel(features, site, train=train, test=test, num_sites=3)
    best = strongest(scores)
    assert {score.design for score in scores} == {"transfer", "within"}
    assert best.design == "within" and best.balanced_accuracy > 0.9


def test_a_fold_keeps_every_site_where_rows_stand_sorted_by_site():
    site = np.concatenate([np.zeros(37, int), np.ones(2, int)])
    features = np.random.default_rng(0).normal(size=(78, 2)).astype(np.float32)
    sites = np.concatenate([np.arange(39) % 2, site])
    scores = panel(features, sites, train=np.arange(39), test=np.arange(39, 78), folds=5)
    assert {score.design for score in scores} == {"transfer", "within"}


def test_sites_without_any_target_are_probed_too_and_the_floor_is_of_those_with():
    """The third site has no diagnosis at all, and Phi lies far off there."""
    random = np.random.default_rng(1)
    site = (np.arange(150) % 3).astype(np.int32)
    phi = random.normal(size=(150, 3)).astype(np.float32)
    phi[site == 2] += 10
    cohort = Cohort(
        name="made_up", simulated=True, participant_id=np.arange(150).astype(str),
        inputs=np.zeros((150, 1), np.float32), site=site, site_names=("GE", "Philips", "Siemens"),
        covariates=random.uniform(60, 80, (150, 1)), covariate_names=("age",),
        target=np.where(site == 2, -1, random.integers(0, 2, 150)).astype(np.int32), target_name="dx",
        target_classes=("AD", "CN"), split=np.repeat(["train", "validation", "test"], 50),
    )  # fmt: skip
    blank = np.zeros((150, 2), np.float32)
    config = dataclasses.replace(CONFIG, adversary_epochs=5)
    found = site_metrics.probe_metrics(cohort, Embeddings(phi, None, phi, None, blank), config)
    assert found["strongest_probe"] > 0.6  # one of three sites is always told; by chance 0.33
    floor = site_metrics.site_floor_metrics(cohort, config)
    assert 0.3 < floor["site_floor"] < 0.8  # of the two sites where the diagnosis is known


def test_chance_is_that_of_the_labels_that_are_there():
    """Of four sites two have held-out rows: balanced accuracy averages over these, and noise reads one half."""
    random = np.random.default_rng(0)
    site = np.concatenate([np.arange(200) % 4, np.arange(100) % 2]).astype(np.int32)
    phi = random.normal(size=(300, 3)).astype(np.float32)
    cohort = Cohort(
        name="made_up", simulated=True, participant_id=np.arange(300).astype(str),
        inputs=np.zeros((300, 1), np.float32), site=site, site_names=("A", "B", "C", "D"),
        covariates=np.full((300, 1), 60.0), covariate_names=("age",), target=np.zeros(300, np.int32), target_name="dx",
        target_classes=("AD", "CN"), split=np.repeat(["train", "validation", "test"], 100),
    )  # fmt: skip
    blank = np.zeros((300, 2), np.float32)
    config = dataclasses.replace(CONFIG, adversary_epochs=5)
    found = site_metrics.probe_metrics(cohort, Embeddings(phi, None, phi, None, blank), config)
    assert found["site_chance"] == 0.5 and found["strongest_probe"] < 0.7
    scaling = Scaling.fit(cohort)
    scores = target_metrics(cohort, scaling, np.eye(2)[np.zeros(100, int)], np.arange(200, 300), config, 0)
    assert scores["balanced_accuracy"] == 100 == scores["target_chance"]  # of one class any guess is right


def test_where_there_is_one_site_nothing_is_probed():
    site = np.concatenate([np.arange(30) % 2, np.zeros(30)]).astype(np.int32)
    phi = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    cohort = Cohort(
        name="made_up", simulated=True, participant_id=np.arange(60).astype(str), inputs=np.zeros((60, 1), np.float32),
        site=site, site_names=("A", "B"), covariates=np.full((60, 1), 60.0), covariate_names=("age",),
        target=np.zeros(60, np.int32), target_name="dx", target_classes=("AD", "CN"),
        split=np.repeat(["train", "test"], 30),
    )  # fmt: skip
    blank = np.zeros((60, 2), np.float32)
    assert site_metrics.probe_metrics(cohort, Embeddings(phi, None, phi, phi, blank), CONFIG) == {}
    assert site_metrics.site_floor_metrics(cohort, CONFIG) == {}
    both = dataclasses.replace(cohort, site=(np.arange(60) % 2).astype(np.int32))  # no validation rows at all
    config = dataclasses.replace(CONFIG, adversary_epochs=5)
    found = site_metrics.probe_metrics(both, Embeddings(phi, None, phi, None, blank), config)
    assert found["strongest_probe"] > 0 and np.isnan(found["selection_probe"])


@pytest.mark.parametrize("row", [0, 700])
def test_features_that_are_not_finite_are_refused(row):
    features, site = noise()
    features[row, 1] = np.nan
    count = len(TRAIN if row < 600 else TEST)
    with pytest.raises(ValueError, match=rf"features is not finite in 1 of {count} rows \(row {row}\)"):
        panel(features, site)
    with pytest.raises(ValueError, match="train_features is not finite in 1 of 1000 rows"):
        read_covariate(features, site.astype(float), features[:2])
    options = {"num_sites": 2, "epochs": 1, "learning_rate": 0.1, "batch_size": 8, "seeds": 1}
    with pytest.raises(ValueError, match="test_features is not finite"):
        adversary_scores(features[1:9], site[1:9], np.full((2, 6), np.inf, np.float32), **options)


def test_the_adversary_reads_features_of_any_scale():
    features, site = noise(rows=40)
    options = {"num_sites": 2, "epochs": 2, "learning_rate": 0.1, "batch_size": 8, "seeds": 1}
    for scale, far in ((1e-30, 1e30), (1e30, 1e-30), (1e25, 3e38)):
        scores = adversary_scores(np.float32(scale) * features, site, np.full((2, 6), far, np.float32), **options)
        np.testing.assert_allclose(scores.sum(axis=2), 1, rtol=1e-5)
