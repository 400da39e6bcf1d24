"""How a setting is chosen: by made-up scores, and by rows that no run is tested on with it."""

import dataclasses

import numpy as np
import pytest

from eqpool.config import BaselineConfig, EvaluateConfig, ModelConfig, RunConfig
from eqpool.data.cohort import Cohort
from experiments.selection import Candidate, choose, inner_split, score_fold


def candidate(accuracy: float, probe: float | None, floor: float = 0.6, chance: float = 0.5) -> Candidate:
    scores = {"balanced_accuracy": accuracy, "probe": probe, "floor": floor, "chance": chance}
    return Candidate.of({"accuracy": accuracy, "probe": probe}, [scores, scores])


def test_the_most_accurate_of_the_settings_that_hide_the_site_is_chosen():
    accurate, hiding, hidden_best = candidate(90.0, 0.63), candidate(80.0, 0.55), candidate(70.0, 0.4)
    assert choose([hidden_best, accurate, hiding], margin=0.02) is hiding
    assert choose([hidden_best, accurate, hiding], margin=0.04) is accurate


def test_the_limit_is_the_larger_of_floor_and_chance():
    leaking, hiding = candidate(90.0, 0.6, floor=0.3, chance=0.5), candidate(80.0, 0.51, floor=0.3, chance=0.5)
    assert choose([leaking, hiding]) is hiding
    assert choose([candidate(90.0, 0.6, floor=0.6, chance=0.5), hiding]).accuracy == 90.0


def test_if_no_setting_hides_the_site_the_nearest_to_its_limit_is_chosen():
    far, near = candidate(90.0, 0.9), candidate(60.0, 0.7)
    assert choose([far, near]) is near


def test_scores_are_means_over_folds_and_a_fold_without_a_probe_leaves_its_limit_out():
    folds = [
        {"balanced_accuracy": 70.0, "probe": 0.5, "floor": 0.4, "chance": 0.5},
        {"balanced_accuracy": 80.0, "probe": 0.7, "floor": 0.6, "chance": 0.5},
        {"balanced_accuracy": 90.0, "probe": None, "floor": None, "chance": 1.0},
    ]
    made = Candidate.of({}, folds)
    assert made.accuracy == 80.0
    assert made.excess == pytest.approx((0.5 + 0.7) / 2 - (0.5 + 0.6) / 2)
    assert Candidate.of({}, folds[2:]).excess == 0.0
    assert made.to_dict()["probe"] == [0.5, 0.7]


def cohort(count: int = 200) -> Cohort:
    """Two scans of each person. The first feature tells the site, the second the target."""
    generator = np.random.default_rng(0)
    person = np.arange(count) // 2
    site = (person % 2).astype(np.int32)
    target = (person // 2 % 2).astype(np.int32)
    inputs = generator.normal(size=(count, 4)).astype(np.float32)
    inputs[:, 0] += 4 * site
    inputs[:, 1] += 4 * target
    split = np.array(["train", "train", "train", "validation", "test"])[person % 5]
    return Cohort(
        name="made up", simulated=True, participant_id=person.astype(str), inputs=inputs, site=site,
        site_names=("A", "B"), covariates=generator.random((count, 1)), covariate_names=("age",), target=target,
        target_name="y", target_classes=("no", "yes"), split=split,
    )  # fmt: skip


def test_folds_lie_inside_the_training_rows_and_never_divide_a_person():
    made = cohort()
    train = made.rows("train")
    splits = [inner_split(made, fold, 3, seed=0) for fold in range(3)]
    held_out = np.concatenate([np.flatnonzero(split == "test") for split in splits])
    assert np.sort(held_out).tolist() == train.tolist()
    for split in splits:
        assert set(split[made.split != "train"]) == {"left_out"}
        assert {"train", "validation", "test"} <= set(split)
        for person in np.unique(made.participant_id[train]):
            assert len(set(split[made.participant_id == person])) == 1


def test_rows_that_are_left_out_change_no_score(tmp_path):
    """Neither the inputs nor the labels of the outer validation and test rows."""
    config = RunConfig(
        method="naive", devices=1, model=ModelConfig(latent_dim=4, hidden_units=8),
        baseline=BaselineConfig(epochs=20, batch_size=32, learning_rate=1e-2, checkpoint_every_epochs=20),
        evaluate=EvaluateConfig(adversary_epochs=2, probe_seeds=1),
    )  # fmt: skip
    made = cohort()
    fold = dataclasses.replace(made, split=inner_split(made, 0, 2, seed=0))
    scores = score_fold(config, fold, tmp_path / "one")
    assert scores["balanced_accuracy"] > 75 and scores["probe"] > 0.8 and scores["chance"] == 0.5
    assert abs(scores["floor"] - 0.5) < 0.25
    out = fold.split == "left_out"
    other = {"inputs": fold.inputs.copy(), "target": fold.target.copy(), "site": fold.site.copy()}
    other["inputs"][out] = 100
    other["target"][out], other["site"][out] = 0, 1
    assert score_fold(config, dataclasses.replace(fold, **other), tmp_path / "other") == scores
