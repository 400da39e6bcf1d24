"""The scorecard on made-up rows whose truth is known."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr
from sklearn.decomposition import PCA

from eqpool.config import EvaluateConfig
from eqpool.evaluate.components import Components
from eqpool.evaluate.scorecard import make_scorecard
from eqpool.evaluate.scored_rows import ScoredRows, choose_rows
from eqpool.evaluate.site_probes import SiteFeatures, predict_sites, strongest
from eqpool.evaluate.site_shuffles import shuffled_accuracies

CONFIG = EvaluateConfig(bootstraps=60, probe_folds=2, scorecard_permutations=0)
ROWS, TRAIN = 240, 140


def made_up(seed: int = 0, columns: int = 6) -> tuple[ScoredRows, np.ndarray, np.ndarray]:
    """(rows, raw, truth): two sites of unlike ages; the site shifts and scales every column."""
    generator = np.random.default_rng(seed)
    site = generator.integers(0, 2, ROWS)
    age = generator.normal(60 + 6 * site, 8)
    target = generator.integers(0, 2, ROWS)
    truth = generator.normal(size=(ROWS, columns)) + 0.06 * age[:, None] * generator.normal(size=columns)
    truth[:, 0] += 1.5 * target
    raw = truth * np.where(site, 1.4, 1.0)[:, None] + np.where(site, 0.9, 0.0)[:, None]
    rows = ScoredRows(
        site=site,
        covariates=age[:, None],
        target=target,
        target_classes=("CN", "AD"),
        subject=np.array([f"sub-{row}" for row in range(ROWS)]),
        is_training=np.arange(ROWS) < TRAIN,
        covariate_name="age",
        target_name="dx",
    )
    return rows, raw, truth


def card_of(rows, versions, on_voxels=False, handed_back="eqpool", config=CONFIG):
    return make_scorecard(rows, versions, handed_back=handed_back, on_voxels=on_voxels, config=config, seed=0)


@pytest.fixture(scope="module")
def card():
    """Raw, ComBat in name alone (half of the effect is left), and what is handed back: the truth but for some noise."""
    rows, raw, truth = made_up()
    noise = np.random.default_rng(1).normal(0, 0.1, raw.shape)
    return card_of(rows, {"raw": raw, "combat": (raw + truth) / 2, "eqpool": truth + noise, "truth": truth})


def test_a_site_effect_that_is_removed_exactly_leaves_no_more_than_age_gives(card):
    versions, levels = card["versions"], card["levels"]
    assert versions["raw"]["site"] > 0.95 and levels["site_chance"] == 0.5
    low, _ = versions["truth"]["site_interval"]
    assert low < levels["site_floor_interval"][1] and abs(versions["eqpool"]["site"] - versions["truth"]["site"]) < 0.1
    assert versions["raw"]["partial_r_squared_site"] > 10 * versions["truth"]["partial_r_squared_site"]


def test_a_site_effect_without_age_is_at_chance_once_it_is_removed():
    rows, raw, truth = made_up()
    alike = np.random.default_rng(2).normal(60, 8, (ROWS, 1))
    noise = np.random.default_rng(3).normal(size=truth.shape)
    effect = np.where(rows.site, 1.5, 0)[:, None]
    alike_rows = dataclasses.replace(rows, covariates=alike)
    versions = card_of(alike_rows, {"raw": noise + effect, "eqpool": noise})["versions"]
    assert versions["raw"]["site"] > 0.95
    assert versions["eqpool"]["site"] < 0.65  # the best of six probes lies above one half by itself
    low, _ = versions["eqpool"]["site_transfer_interval"]
    assert low < 0.55


def test_versions_of_equal_values_have_equal_scores():
    """They are scored once. What is handed back has its shuffled sites, also where it equals another version."""
    rows, raw, truth = made_up()
    few = dataclasses.replace(CONFIG, scorecard_permutations=2)
    made = {"raw": raw, "calibrated": (raw + truth) / 2, "eqpool": (raw + truth) / 2, "truth": truth}
    whole = card_of(rows, made, config=few)
    alone = card_of(rows, {name: made[name] for name in ("raw", "eqpool", "truth")}, config=few)
    assert whole["versions"]["eqpool"] == alone["versions"]["eqpool"] and list(whole["versions"]) == list(made)
    assert "site_shuffled" in whole["versions"]["eqpool"] and "site_shuffled" not in whole["versions"]["calibrated"]
    shared = whole["versions"]["calibrated"]
    assert shared == {name: value for name, value in whole["versions"]["eqpool"].items() if name in shared}
    assert whole["differences"]["calibrated"]["error_to_truth"] == 0


def test_errors_to_the_truth_are_those_of_the_rows(card):
    rows, raw, truth = made_up()
    errors = np.sqrt(((raw - truth)[rows.test] ** 2).mean(axis=1))
    raw_scores, handed_back = card["versions"]["raw"], card["versions"]["eqpool"]
    assert raw_scores["error_to_truth"] == pytest.approx(errors.mean())
    assert raw_scores["error_to_truth_share_of_raw"] == 1 and card["versions"]["truth"]["error_to_truth"] == 0
    assert handed_back["error_to_truth"] == pytest.approx(0.1, rel=0.1)
    assert handed_back["error_to_truth_share_of_raw"] == pytest.approx(handed_back["error_to_truth"] / errors.mean())


def test_differences_have_intervals_on_the_same_rows(card):
    for other in ("raw", "combat"):
        difference = card["differences"][other]
        for name in ("site", "error_to_truth"):
            expected = card["versions"]["eqpool"][name] - card["versions"][other][name]
            assert difference[name] == pytest.approx(expected) and difference[f"{name}_interval"][1] < 0
    assert set(card["differences"]) == {"raw", "combat"}


def test_age_is_read_within_sites_beside_the_constant(card):
    rows, _, _ = made_up()
    age, site = rows.covariates[rows.test, 0], rows.site[rows.test]
    centred = age - np.array([age[site == one].mean() for one in site])
    levels = card["levels"]
    assert levels["constant_covariate_mae_within_sites"] == pytest.approx(np.abs(centred).mean())
    median = np.median(rows.covariates[rows.train, 0])
    assert levels["constant_covariate_mae"] == pytest.approx(np.abs(median - age).mean())
    assert card["versions"]["truth"]["covariate_mae_within_sites"] < 0.8 * levels["constant_covariate_mae_within_sites"]


def hidden_in_training(on_voxels: bool) -> dict:
    """The site is taken from the training rows exactly, by their own means, and left in the others."""
    rows, _, _ = made_up()
    generator = np.random.default_rng(4)
    columns = 200 if on_voxels else 6
    noise = generator.normal(size=(ROWS, columns)) + 0.5 * generator.normal(size=(ROWS, 1))
    raw = noise + 4.0 * rows.site[:, None] * generator.normal(size=columns)
    hidden = raw.copy()
    for one in (0, 1):
        here = rows.train[rows.site[rows.train] == one]
        hidden[here] -= hidden[here].mean(axis=0)
    return card_of(rows, {"raw": raw, "eqpool": hidden}, on_voxels)["versions"]["eqpool"]


@pytest.mark.parametrize("on_voxels", [False, True])
def test_what_hides_from_transfer_is_found_by_cross_validation(on_voxels):
    scores = hidden_in_training(on_voxels)
    assert scores["site_within"] > 0.95 and scores["site"] == scores["site_within"]
    assert scores["site_transfer"] < 0.75 and scores["site_name"].endswith("within")


def test_what_hides_from_cross_validation_is_found_by_transfer():
    """The held-out rows of a site lie on either side of those of the other, who are told by their training rows."""
    rows, _, _ = made_up()
    noise = np.random.default_rng(5).normal(size=(ROWS, 4))
    raw = noise + 3.0 * rows.site[:, None]
    cleaned = np.where(rows.is_training[:, None], raw, noise)
    scores = card_of(rows, {"raw": raw, "eqpool": cleaned})["versions"]["eqpool"]
    assert scores["site_within"] < 0.65


def test_a_target_that_is_a_number_has_an_error_beside_its_constant():
    rows, raw, truth = made_up()
    score = truth[:, 1].astype(np.float32)
    score[::7] = np.nan
    rows = dataclasses.replace(rows, target=score, target_classes=())
    card = card_of(rows, {"raw": raw, "eqpool": truth})
    assert card["versions"]["eqpool"]["target_mae"] < 0.1 * card["levels"]["constant_target_mae"]
    known = rows.test[np.isfinite(score[rows.test])]
    middle = np.nanmedian(score[rows.train])
    assert card["levels"]["constant_target_mae"] == pytest.approx(np.abs(middle - score[known]).mean())


def test_what_is_not_defined_is_left_out_or_none():
    """No covariate, no target, one site, and a version that is not finite."""
    rows, raw, _ = made_up()
    bare = dataclasses.replace(
        rows,
        site=np.zeros(ROWS, int),
        covariates=np.zeros((ROWS, 0)),
        target=np.full(ROWS, np.nan, np.float32),
        target_classes=(),
        covariate_name="",
    )
    broken = raw.copy()
    broken[3, 2] = np.nan
    card = card_of(bare, {"raw": raw, "eqpool": broken})
    of_raw = card["versions"]["raw"]
    assert set(of_raw) == {"pairwise_correlation_to_raw", "pairwise_correlation_to_raw_interval"}
    assert card["versions"]["eqpool"] == {"non_finite_rows": 1} and card["levels"] == {"site_chance": 1.0}
    assert card["differences"] == {} and card["target"] == ""


def test_the_scorecard_is_plain_numbers_and_the_same_again(card):
    rows, raw, truth = made_up()
    noise = np.random.default_rng(1).normal(0, 0.1, raw.shape)
    versions = {"raw": raw, "combat": (raw + truth) / 2, "eqpool": truth + noise, "truth": truth}
    assert json.loads(json.dumps(card, allow_nan=False)) == json.loads(json.dumps(card_of(rows, versions)))


def test_a_small_site_in_the_held_out_rows_is_scored_by_transfer():
    rows, raw, _ = made_up()
    site = rows.site.copy()
    site[rows.train[:20]] = site[rows.test[0]] = 2
    found = predict_sites(
        raw[rows.train], site[rows.train], raw[rows.test], site[rows.test], rows.subject[rows.test],
        across=Components.fit(raw[rows.train], 0), components=0, num_folds=5,
    )  # fmt: skip
    within = strongest(found, "within")
    assert within.truth[0] == -1 and within.predicted.min() >= -1 and len(found) == 6
    assert strongest(found, "transfer").truth[0] == 2


def test_without_covariate_and_target_there_is_no_floor_and_a_covariate_of_two_values_has_no_error():
    rows, raw, _ = made_up()
    known = {"target": np.full(ROWS, -1), "covariate_name": ""}
    bare = card_of(dataclasses.replace(rows, covariates=np.zeros((ROWS, 0)), **known), {"raw": raw})
    assert (
        set(bare["levels"]) == {"site_chance", "partial_r_squared_site_by_chance"}
        and bare["versions"]["raw"]["site"] > 0.95
    )
    sex = dataclasses.replace(rows, covariates=(np.arange(ROWS)[:, None] % 2).astype(float))
    card = card_of(sex, {"raw": raw})
    assert not [name for name in {**card["levels"], **card["versions"]["raw"]} if "covariate_mae" in name]
    assert "partial_r_squared_covariate" in card["versions"]["raw"] and card["levels"]["site_floor"] >= 0.4


def test_the_reference_s_rows_count_in_no_error_and_no_pair():
    """They stay as they are, so that they would only dilute what happens to the others."""
    rows, raw, truth = made_up()
    rows = dataclasses.replace(rows, reference=0, reference_name="A")
    views = np.where(rows.site[:, None] == 0, raw, truth)  # site 1 as site 0 shows it
    half = (raw + views) / 2
    card = make_scorecard(
        rows, {"raw": raw, "istn": half, "truth": views}, handed_back="istn", on_voxels=False, config=CONFIG, seed=0,
        truth_is="as_reference",
    )  # fmt: skip
    test = rows.test[rows.site[rows.test] == 1]
    errors = np.sqrt(((raw - truth)[test] ** 2).mean(axis=1))
    assert card["versions"]["raw"]["error_to_truth"] == pytest.approx(errors.mean())
    assert card["versions"]["istn"]["error_to_truth_share_of_raw"] == pytest.approx(0.5)
    assert (card["truth_is"], card["reference"], card["unit"]) == ("as_reference", "A", "z-scores")
    expected = pearsonr(pdist(half[test]), pdist(raw[test])).statistic
    assert card["versions"]["istn"]["pairwise_correlation_to_raw"] == pytest.approx(expected)


def test_pairwise_distances_are_those_of_two_people_of_one_site():
    rows, raw, truth = made_up()
    subject = rows.subject.copy()
    subject[rows.test[1::2]] = subject[rows.test[::2]]  # two scans of everyone who is held out
    rows = dataclasses.replace(rows, subject=subject)
    found = card_of(rows, {"raw": raw, "truth": truth}, handed_back="")["versions"]["raw"]
    pairs = [
        (np.linalg.norm(raw[one] - raw[other]), np.linalg.norm(truth[one] - truth[other]))
        for one in rows.test
        for other in rows.test
        if one < other and rows.site[one] == rows.site[other] and subject[one] != subject[other]
    ]
    assert found["pairwise_correlation_to_truth"] == pytest.approx(pearsonr(*zip(*pairs, strict=True)).statistic)
    assert found["pairwise_correlation_to_raw"] == pytest.approx(1)
    low, high = found["pairwise_correlation_to_truth_interval"]
    assert low < found["pairwise_correlation_to_truth"] < high


def shuffled_by_hand(rows: ScoredRows, values: np.ndarray, permutations: int) -> np.ndarray:
    """The strongest probe of each of some shuffles by NumPy, within the classes of the target."""
    generator, found = np.random.default_rng(7), []
    for _ in range(permutations):
        site = rows.site.copy()
        for part in (rows.train, rows.test):
            for level in np.unique(rows.target):
                here = part[rows.target[part] == level]
                site[here] = site[generator.permutation(here)]
        train, test = rows.train, rows.test
        sites, subject = (site[train], site[test]), rows.subject[test]
        predictions = predict_sites(
            values[train], sites[0], values[test], sites[1], subject,
            across=Components.fit(values[train], 0), components=0, num_folds=CONFIG.probe_folds,
        )  # fmt: skip
        found.append(strongest(predictions).accuracy)
    return np.array(found)


def test_shuffled_sites_give_the_level_of_the_strongest_probe_by_chance():
    """The site shifts the raw rows, and what is handed back is noise: the level is the same, and above one half."""
    rows, raw, _ = made_up()
    noise = np.random.default_rng(3).normal(size=raw.shape)
    config = dataclasses.replace(CONFIG, scorecard_permutations=19)
    card = card_of(rows, {"raw": raw, "combat": noise, "eqpool": noise}, config=config)
    versions = card["versions"]
    assert not [name for name in versions["combat"] if "shuffled" in name] and card["permutations"] == 19
    expected = shuffled_by_hand(rows, noise, 19)
    spread = 3 * expected.std() * np.sqrt(2 / 19)
    for name in ("raw", "eqpool"):
        assert abs(versions[name]["site_shuffled"] - expected.mean()) < spread
        low, high = versions[name]["site_shuffled_interval"]
        assert versions[name]["site_shuffled"] > 0.5 and low < versions[name]["site_shuffled"] < high < 0.7
        parts = max(versions[name][f"site_{design}_shuffled"] for design in ("transfer", "within"))
        assert versions[name]["site_shuffled"] >= parts > 0.45
    assert versions["raw"]["site"] > 0.95 and versions["eqpool"]["site"] <= versions["eqpool"]["site_shuffled"] + 0.15


def test_shuffles_move_whole_people_and_leave_a_site_of_one_person_alone():
    rows, raw, _ = made_up()
    site, subject = rows.site.copy(), rows.subject.copy()
    subject[rows.test[1::2]] = subject[rows.test[::2]]
    site[rows.test[1::2]] = site[rows.test[::2]]
    site[rows.test[:2]] = 2  # one person, two scans
    rows = dataclasses.replace(rows, site=site, subject=subject)
    across = Components.fit(raw[rows.train], 0)
    features = SiteFeatures.of(raw[rows.train], raw[rows.test], site[rows.test], subject[rows.test], across, 0)
    seen = []

    class Watched:
        inside = features.inside

        def predict(self, train_site, test_site, num_folds):
            seen.append((train_site, test_site))
            return features.predict(train_site, test_site, num_folds)

    found = shuffled_accuracies(rows, Watched(), {"site": "", "never": "no design"}, 2, 3)
    assert set(found) == {"site"} and found["site"].shape == (3,)
    for train_site, test_site in seen:
        np.testing.assert_array_equal(test_site[::2], test_site[1::2])
        assert (test_site[:2] == 2).all() and (np.sort(train_site) == np.sort(site[rows.train])).all()
        assert (test_site != site[rows.test]).any()


def test_a_shuffle_without_a_design_counts_for_no_score():
    """The strongest of fewer probes lies lower."""
    rows, raw, _ = made_up()
    site = rows.site
    across = Components.fit(raw[rows.train], 0)
    features = SiteFeatures.of(raw[rows.train], raw[rows.test], site[rows.test], rows.subject[rows.test], across, 0)
    calls = []

    class WithoutFoldsOnce:
        inside = features.inside

        def predict(self, train_site, test_site, num_folds):
            calls.append(features.predict(train_site, test_site, num_folds))
            return [one for one in calls[-1] if len(calls) != 2 or one.design == "transfer"]

    found = shuffled_accuracies(rows, WithoutFoldsOnce(), {"site": "", "within": "within"}, 2, 3)
    for name, design in (("site", ""), ("within", "within")):
        expected = [strongest(predictions, design).accuracy for predictions in (calls[0], calls[2])]
        np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize("most", [50, 1000])
def test_rows_are_chosen_by_subject(most):
    subject = np.arange(300) // 3
    split = np.where(subject % 3 == 0, "test", np.where(subject % 3 == 1, "train", "validation"))
    rows = choose_rows(split, subject, 0, most)
    for name in ("train", "test"):
        here = rows[split[rows] == name]
        assert len(here) == min(most, (split == name).sum())
        assert np.sum(np.bincount(subject[here]) % 3 > 0) <= 1  # at most one subject is cut
    assert (np.diff(rows) > 0).all() and not (split[rows] == "validation").any()
    np.testing.assert_array_equal(rows, choose_rows(split, subject, 0, most))


def test_components_equal_those_of_scikit_learn():
    generator = np.random.default_rng(6)
    rows, others = generator.normal(size=(30, 80)) * np.linspace(3, 0.1, 80), generator.normal(size=(5, 80))
    expected = PCA(10, svd_solver="full").fit(rows)
    found = Components.fit(rows, 10)
    scores = expected.transform(others)
    np.testing.assert_allclose(np.abs(found.apply(others)), np.abs(scores), atol=1e-9)
    assert Components.fit(rows, 100).apply(rows).shape == (30, 29)  # no direction of rounding error
