"""The scorecard in words: honest where what is handed back is no better, and silent where rows are few."""

import pytest

from eqpool.report.score_table import describe_scorecard, judge_scorecard, score_table


def scores(site: float, error: float, truth: float, **more) -> dict:
    found = {"site": site, "covariate_mae_within_sites": error, "error_to_truth": truth}
    return {**found, **{f"{name}_interval": [value - 0.05, value + 0.05] for name, value in found.items()}, **more}


def card(against_raw: dict, against_combat: dict, **changes) -> dict:
    """A card whose differences have these intervals by the score's name."""
    differences = {
        other: {name: sum(interval) / 2 for name, interval in intervals.items()}
        | {f"{name}_interval": interval for name, interval in intervals.items()}
        for other, intervals in (("raw", against_raw), ("combat", against_combat))
    }
    levels = {"site_chance": 0.5, "site_floor": 0.6, "site_floor_interval": [0.5, 0.7]}
    versions = {"raw": scores(0.9, 5.0, 0.3), "combat": scores(0.6, 5.2, 0.25), "eqpool": scores(0.62, 5.1, 0.2)}
    return {
        "rows": {"train": 300, "test": 80},
        "features": 50,
        "components": 0,
        "covariate": "age",
        "target": "dx",
        "handed_back": "eqpool",
        "levels": levels,
        "versions": versions | {"truth": scores(0.55, 4.9, 0.0)},
        "differences": differences,
    } | changes


BETTER = {"site": [-0.4, -0.1], "covariate_mae_within_sites": [-0.2, 0.3], "error_to_truth": [-0.2, -0.1]}
WORSE = {"site": [0.1, 0.4], "covariate_mae_within_sites": [0.1, 0.3], "error_to_truth": [0.1, 0.2]}
OPEN = {"site": [-0.1, 0.1], "covariate_mae_within_sites": [-0.2, 0.2], "error_to_truth": [-0.1, 0.1]}
MIXED = {"site": [-0.4, -0.1], "covariate_mae_within_sites": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("against_raw", "against_combat", "said"),
    [
        (WORSE, WORSE, "worse than the raw input and ComBat"),
        (BETTER, OPEN, "better than the raw input and not clearly different from ComBat"),
        (BETTER, WORSE, "better than the raw input and worse than ComBat"),
        (WORSE, BETTER, "worse than the raw input and better than ComBat"),
        (
            OPEN,
            MIXED,
            "not clearly different from the raw input and better in some ways and worse in others than ComBat",
        ),
    ],
)
def test_the_first_sentence_says_whether_it_is_better(against_raw, against_combat, said):
    assert judge_scorecard(card(against_raw, against_combat))[0] == f"What is handed back is {said}."


def test_every_difference_is_named_with_both_numbers():
    sentences = judge_scorecard(card(BETTER, WORSE))
    assert sentences[2] == (
        "Compared with the raw input: better in site classification accuracy (0.9 to 0.62) and the error to the truth "
        "(0.3 to 0.2); not clearly different in the error of age within sites."
    )
    assert sentences[3].startswith("Compared with ComBat: worse in site classification accuracy (0.6 to 0.62), ")


def test_a_difference_that_no_digit_shows_is_neither_better_nor_worse():
    worse = card(OPEN, {"error_to_truth": [0.00001, 0.00002]})
    worse["versions"]["combat"]["error_to_truth"] = worse["versions"]["eqpool"]["error_to_truth"] - 0.00002
    assert judge_scorecard(worse)[3] == "Compared with ComBat: not clearly different in the error to the truth."


def test_a_higher_accuracy_of_the_target_is_better():
    gain = {"target_balanced_accuracy": [0.05, 0.1]}
    both = card(gain, {name: [-high, -low] for name, (low, high) in gain.items()})
    for name, version in both["versions"].items():
        version["target_balanced_accuracy"] = {"raw": 0.6, "combat": 0.8}.get(name, 0.7)
    assert judge_scorecard(both)[0].endswith("better than the raw input and worse than ComBat.")


@pytest.mark.parametrize(("site", "said"), [(0.62, "not clearly more predictable"), (0.76, "still predictable")])
def test_the_site_that_is_left_is_held_against_the_floor(site, said):
    changed = card(BETTER, OPEN)
    changed["versions"]["eqpool"] = scores(site, 5.1, 0.2)
    assert said in judge_scorecard(changed)[1] and "floor 0.6, chance 0.5" in judge_scorecard(changed)[1]


def test_the_site_that_is_left_is_held_against_shuffled_sites():
    """The strongest of several probes reads 0.65 on shuffled sites, and up to 0.78."""
    changed = card(BETTER, OPEN)
    for name in ("raw", "eqpool"):
        changed["versions"][name] |= {"site_shuffled": 0.65, "site_shuffled_interval": [0.5, 0.78]}
    changed["versions"]["eqpool"] |= {"site": 0.76, "site_interval": [0.71, 0.81]}
    assert "not clearly more predictable from it than from covariates" in judge_scorecard(changed)[1]
    assert "floor 0.6, sites shuffled 0.65, chance 0.5" in judge_scorecard(changed)[1]
    del changed["levels"]["site_floor"], changed["levels"]["site_floor_interval"]
    assert "not clearly more predictable from it than by chance (0.76" in judge_scorecard(changed)[1]
    changed["versions"]["eqpool"]["site_interval"] = [0.79, 0.85]
    assert "still predictable" in judge_scorecard(changed)[1]
    row = next(cells for label, _, cells in score_table(changed).lines if label == "the same with the sites shuffled")
    assert row == [("0.65", "[0.5, 0.78]"), ("", ""), ("0.65", "[0.5, 0.78]"), ("", "")]
    assert any(line.startswith("  the same with the sites shuffled") for line in describe_scorecard(changed))


def test_a_truth_of_the_reference_is_named_as_such():
    """And the unit of images that are no volumes."""
    better = BETTER | {"pairwise_correlation_to_truth": [0.1, 0.2]}
    changed = card(better, OPEN, truth_is="as_reference", unit="intensities from -1 to 1")
    for name, version in changed["versions"].items():
        version["pairwise_correlation_to_truth"] = 0.4 if name == "raw" else 0.5
    table = score_table(changed)
    assert table.headings[-1] == "reference's view"
    labels = [label for label, _, _ in table.lines]
    assert "error to the reference's view, intensities from -1 to 1" in labels
    assert "the error to the reference's view (0.3 to 0.2)" in judge_scorecard(changed)[2]
    assert "the differences between people (0.4 to 0.5)" in judge_scorecard(changed)[2]


def test_few_rows_decide_nothing():
    (sentence,) = judge_scorecard(card(BETTER, WORSE, rows={"train": 30, "test": 9}))
    assert sentence == "With 9 held-out rows no difference between the versions is called clear."


def test_a_method_that_hands_nothing_back_is_not_called_better():
    (sentence,) = judge_scorecard(card({}, {}, handed_back="", differences={}))
    assert "hands back no harmonised data" in sentence and "better" not in sentence


def test_values_that_are_not_finite_are_said():
    broken = card({}, {}, differences={})
    broken["versions"]["eqpool"] = {"non_finite_rows": 3}
    assert judge_scorecard(broken) == ["What is handed back has values that are not finite. Do not use it."]
    assert all(cells[2] == ("not finite", "") for _, _, cells in score_table(broken).lines)


def test_the_terminal_shows_raw_combat_and_what_is_handed_back():
    lines = describe_scorecard(card(BETTER, OPEN))
    assert lines[0].split("  ")[0] == "scorecard, * handed back, 80 held-out rows:"
    assert lines[0].split()[-4:] == ["input", "ComBat", "eqpool", "*"]
    site = next(line for line in lines if "site classification accuracy (chance 0.5, floor 0.6)" in line)
    assert site.split("  ")[-1] == "0.62 [0.57, 0.67]"
    assert max(map(len, lines[:4])) < 130 and not any("truth 0" in line for line in lines)


def test_the_page_has_the_truth_beside_them():
    table = score_table(card(BETTER, OPEN))
    assert table.headings == ["raw input", "ComBat", "eqpool", "without scanner"] and table.handed_back == 2
    assert table.lines[-1][:2] == ("error to the truth, z-scores", "")
