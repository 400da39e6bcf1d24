"""How many held-out people a result needs, against SciPy's and statsmodels' intervals."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, pearsonr
from statsmodels.stats.proportion import proportion_confint

from eqpool.config import DataConfig
from eqpool.data.preflight.held_out import (
    accuracy_half_width,
    correlation_half_width,
    examine_held_out,
    fewest_of_a_number,
    fewest_of_each,
    widest_accuracy,
    wilson_half_width,
)
from eqpool.data.sources.participants_folder import load_design
from tests.data.preflight.test_findings import found, sound


@pytest.mark.parametrize("groups", [2, 3, 4, 5, 10])
@pytest.mark.parametrize("each", [1, 5, 13, 40])
def test_equal_groups_have_wilsons_interval_of_all_their_people(groups, each):
    interval = binomtest(each, each * groups, 1 / groups).proportion_ci(method="wilson")
    expected = (interval.high - interval.low) / 2
    assert accuracy_half_width([each] * groups) == pytest.approx(expected, rel=1e-12)
    low, high = proportion_confint(each, each * groups, method="wilson")
    assert wilson_half_width(each * groups, 1 / groups) == pytest.approx((high - low) / 2, rel=1e-12)


def test_unequal_groups_have_the_spread_of_guesses():
    """Balanced accuracies of guesses, drawn: their deviation is that of a share of so many people as the rule says."""
    people = np.array([6, 15, 60])
    hits = np.random.default_rng(0).binomial(people, 1 / 3, size=(200_000, 3))
    effective = (1 / 3) * (2 / 3) / np.var((hits / people).mean(axis=1))
    assert accuracy_half_width(people.tolist()) == pytest.approx(wilson_half_width(effective, 1 / 3), rel=0.01)


@pytest.mark.parametrize(("groups", "needed"), [(2, 20), (3, 12), (4, 8), (20, 5)])
def test_the_fewest_are_the_first_whose_interval_is_narrow_enough(groups, needed):
    assert fewest_of_each(groups) == needed
    for each, enough in ((needed, True), (needed - 1, False)):
        interval = binomtest(each, each * groups, 1 / groups).proportion_ci(method="wilson")
        assert ((interval.high - interval.low) / 2 <= widest_accuracy(groups)) == enough


def test_nobody_of_a_group_is_the_whole_range():
    assert accuracy_half_width([0, 30]) == 1 and accuracy_half_width([]) == 1


@pytest.mark.parametrize("people", [4, 12, 44])
def test_a_correlation_at_zero_has_fishers_interval(people):
    first = np.arange(people) - (people - 1) / 2
    second = first**2 - np.mean(first**2)  # not correlated with the first
    interval = pearsonr(first, second).confidence_interval()
    assert correlation_half_width(people) == pytest.approx(interval.high, rel=1e-9)
    assert correlation_half_width(people) == pytest.approx(-interval.low, rel=1e-9)


def test_forty_four_people_are_the_fewest_of_a_number():
    assert fewest_of_a_number() == 44
    assert correlation_half_width(44) <= 0.3 < correlation_half_width(43)
    assert correlation_half_width(3) == correlation_half_width(0) == 1


def cohort_of(tmp_path, table, **changes):
    path = tmp_path / "participants.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    return load_design(dataclasses.replace(DataConfig(participants=str(path)), **changes))


def test_people_are_counted_and_not_their_scans(tmp_path):
    table = sound().assign(split=["test"] * 30 + ["train"] * 15 + ["validation"] * 15)
    visits = table.assign(session_id="1")
    twice = pd.concat([visits, visits.assign(session_id="2")])
    for rows in (visits, twice):
        results = {result.name: result for result in examine_held_out(cohort_of(tmp_path, rows, nuisances="sex"))}
        assert set(results) == {"sites", "classes of dx", "levels of sex", "age"}
        assert results["sites"].people == (10, 10, 10) and results["age"].people == (30,)
        assert not results["sites"].is_enough and results["sites"].needed == 12
        assert results["age"].half_width == correlation_half_width(30)


def test_rows_without_a_label_do_not_count(tmp_path):
    table = sound().assign(split=["test"] * 30 + ["train"] * 15 + ["validation"] * 15)
    table.loc[table.index[:6], ["site", "dx"]] = np.nan
    results = {result.name: result for result in examine_held_out(cohort_of(tmp_path, table))}
    assert sum(results["sites"].people) == sum(results["classes of dx"].people) == 24
    numeric = {one.name: one for one in examine_held_out(cohort_of(tmp_path, table, target="thickness"))}
    assert numeric["thickness"].people == (30,) and numeric["thickness"].groups == ()


def test_a_small_test_split_is_a_finding_that_names_every_result(tmp_path):
    (finding,) = found(tmp_path, sound())["held_out_people"]
    assert finding.severity == "warning" and "config.data.test_fraction" in finding.message
    assert "sites 4 of each (12 of each needed; 0.33 +- " in finding.message
    assert "classes of dx 6 of each (20 of each needed; 0.5 +- " in finding.message
    assert "age 12 (44 needed; a correlation of 0 +- 0.57)" in finding.message
    assert set(finding.numbers["held_out"]) == {"sites", "classes of dx", "age"}
    assert "held_out_people" not in found(tmp_path, sound(600))


def test_a_description_names_the_smallest_and_the_largest_group(tmp_path):
    table = sound().assign(split=["test"] * 30 + ["train"] * 15 + ["validation"] * 15)
    table.loc[table.index[:4], "site"] = "B"
    (sites, *_) = examine_held_out(cohort_of(tmp_path, table))
    assert sites.describe().startswith(f"sites {min(sites.people)} (")
    assert f" to {max(sites.people)} (B) (12 of each needed; 0.33 +- " in sites.describe()
