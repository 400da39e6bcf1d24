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


def test_a_higher_accuracy_of_the_target_is_better():
    gain = {"target_balanced_accuracy": [0.05, 0.1]}
    both = card(gain, {name: [-high, -low] for name, (low, high) in gain.items()})
    for version in both["versions"].values():
        version["target_balanced_accuracy"] = 0.7
    assert judge_scorecard(both)[0].endswith("better than the raw input and worse than ComBat.")


@pytest.mark.parametrize(("site", "said"), [(0.62, "not clearly more predictable"), (0.76, "still predictable")])
def test_the_site_that_is_left_is_held_against_the_floor(site, said):
    changed = card(BETTER, OPEN)
    changed["versions"]["eqpool"] = scores(site, 5.1, 0.2)
    assert said in judge_scorecard(changed)[1] and "floor 0.6, chance 0.5" in judge_scorecard(changed)[1]


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
