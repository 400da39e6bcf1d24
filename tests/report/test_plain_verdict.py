"""The verdict on top: true for good, bad and undecided results, and for results of nothing changed."""

import re

import numpy as np
import pytest

from eqpool.report.glossary import glossary, mark_terms
from eqpool.report.lettering import Figure
from eqpool.report.plain_verdict import plain_verdict
from eqpool.report.score_figure import describe_scorecard_figure, draw_scorecard
from tests.report.test_score_table import BETTER, OPEN, WORSE, card

TERMS = glossary(latents=True, images=True, istn=False)


def test_a_better_result_beside_combat_and_chance():
    site, kept = plain_verdict(card(BETTER, OPEN))
    assert site == (
        "Site classification accuracy fell from 90% to 62% on 80 held-out rows (ComBat: 60%; chance: 50%; floor: 60%)."
    )
    assert kept == (
        "Age (mean error within sites 5 before, 5.1 now) is predicted as well as before, as far as 80 rows can show. "
        "The error to the same people without a scanner fell from 0.3 to 0.2 (ComBat: 0.25)."
    )


def test_a_worse_result_is_called_worse():
    site, kept = plain_verdict(card(WORSE, WORSE))
    assert site.startswith("Site classification accuracy rose from 90% to 62%") and "ComBat: 60%, clearly lower" in site
    assert "is predicted worse than before" in kept and "rose from 0.3 to 0.2" in kept and "better" not in kept


def test_what_is_not_decided_is_not_called_a_fall():
    site, kept = plain_verdict(card(OPEN, BETTER))
    assert "did not clearly change on 80 held-out rows: it was 90% and is now 62%" in site and "fell" not in site
    assert "ComBat: 60%, clearly higher" in site and "did not clearly change, going from 0.3 to 0.2" in kept


def test_a_site_that_is_left_is_said():
    left = card(BETTER, OPEN)
    left["versions"]["eqpool"] |= {"site": 0.8, "site_interval": [0.75, 0.85]}
    assert plain_verdict(left)[0].endswith("The site can still be predicted.")
    assert "can still" not in plain_verdict(card(BETTER, OPEN))[0]


def test_nothing_changed_is_said_and_what_is_left():
    same = card(OPEN, OPEN)
    same["versions"]["eqpool"] = dict(same["versions"]["raw"])
    site, kept, unchanged = plain_verdict(same, change_scale=0.0)
    assert site.startswith("Site classification accuracy stayed at 90% on 80 held-out rows (ComBat: 60%")
    assert kept.startswith("Age is predicted exactly as before.")
    assert unchanged.endswith("what is handed back is the raw input, unchanged.")
    same["versions"]["calibrated"] = dict(same["versions"]["eqpool"])
    assert plain_verdict(same, change_scale=0.0)[2].endswith("is the calibration of sites alone.")
    assert len(plain_verdict(same, change_scale=0.5)) == len(plain_verdict(same)) == 2


def test_few_rows_and_no_product_make_no_claim():
    site, kept = plain_verdict(card(BETTER, BETTER, rows={"train": 30, "test": 8}))
    assert "fell" not in site + kept and site.endswith("With so few rows no change is called clear.")
    assert "as well as before" not in kept
    (nothing,) = plain_verdict(card({}, {}, handed_back="", differences={}))
    assert nothing.startswith("This method hands back no harmonised data.") and "90% in the raw input" in nothing
    broken = card({}, {}, differences={})
    broken["versions"]["eqpool"] = {"non_finite_rows": 3}
    assert plain_verdict(broken) == ["What is handed back has values that are not finite. Do not use it."]


@pytest.mark.parametrize(("components", "unit", "named"), [(9, "z-scores", "scans"), (9, "intensities", "images")])
def test_rows_are_called_what_they_are(components, unit, named):
    assert f"80 held-out {named}" in plain_verdict(card(BETTER, OPEN, components=components, unit=unit))[0]


def test_the_figure_has_a_panel_for_each_measure_and_its_dots_are_the_scores():
    scored = card(BETTER, OPEN)
    figure = draw_scorecard(scored)
    assert isinstance(figure, Figure) and [len(axes.get_yticks()) for axes in figure.axes] == [4, 4, 3]
    site = figure.axes[0]
    dots = {float(line.get_xdata()[0]) for line in site.lines if line.get_marker() in ("o", "D")}
    assert dots == {0.9, 0.6, 0.62, 0.55}
    assert [text.get_text() for text in site.get_legend().get_texts()] == ["chance 50%", "floor 60%"]
    levels = [line.get_xdata()[0] for line in site.lines if line.get_linestyle() in ("--", ":")]
    np.testing.assert_allclose(levels, [0.5, 0.6])
    assert "raw input 90%, ComBat 60%, eqpool * 62%, without scanner 55%" in describe_scorecard_figure(scored)


def test_the_calibration_alone_is_drawn_where_it_differs():
    scored = card(BETTER, OPEN)
    scored["versions"]["calibrated"] = dict(scored["versions"]["eqpool"])
    assert "calibration alone" not in describe_scorecard_figure(scored)
    scored["versions"]["calibrated"]["site"] = 0.7
    assert "calibration alone 70%" in describe_scorecard_figure(scored)


def test_versions_that_are_not_finite_and_missing_levels_are_drawn_all_the_same():
    scored = card({}, {}, differences={}, levels={"site_chance": None})
    scored["versions"]["eqpool"] = {"non_finite_rows": 3}
    assert "eqpool * not defined" in describe_scorecard_figure(scored)
    assert draw_scorecard(scored).axes[0].get_legend() is None


def test_each_term_is_marked_once_reached_by_the_keyboard_and_escaped():
    marked = mark_terms("Floor of tau^-1 Phi & <b>, floor, Phi; tauten", TERMS)
    terms = re.findall(
        r'<span class="term" tabindex="0">([^<]*)<span class="meaning" role="note">([^<]+)</span>', marked
    )
    assert [term for term, _ in terms] == ["Floor", "tau^-1 Phi", "Phi"]
    assert all(meaning for _, meaning in terms) and "&amp; &lt;b&gt;" in marked and "tauten" in marked
    assert re.sub("<[^>]*>", "", re.sub(r'<span class="meaning".*?</span>', "", marked)) == (
        "Floor of tau^-1 Phi &amp; &lt;b&gt;, floor, Phi; tauten"
    )


def test_the_glossary_of_a_run_has_its_own_terms_alone():
    scores = glossary(latents=False, images=False, istn=False)
    assert "floor" in scores and "Phi" not in scores and "SSIM" not in scores
    for term in (
        "M",
        "delta_eq",
        "equivariance error",
        "SSIM",
        "PSNR",
        "Phi",
        "tau",
        "partial R²",
        "balanced accuracy",
    ):
        assert TERMS[term].endswith(".")
