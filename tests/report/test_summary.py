"""What a run says on the terminal: warnings first, then the data; and in the end where its products are."""

import numpy as np
import pytest

from eqpool.config import DataConfig
from eqpool.data.preflight.findings import examine
from eqpool.data.sources.participants_folder import load_design
from eqpool.report.summary import (
    describe_data,
    describe_files,
    describe_findings,
    describe_results,
    describe_top,
)
from tests.data.preflight.test_findings import sound
from tests.report.test_score_table import BETTER, OPEN, card


def cohort_of(tmp_path, table):
    path = tmp_path / "participants.tsv"
    table.to_csv(path, sep="\t", index=False)
    return load_design(DataConfig(participants=str(path)))


def test_few_held_out_people_stand_above_everything_and_once(tmp_path):
    cohort = cohort_of(tmp_path, sound())
    findings = examine(cohort)
    said = describe_data(cohort, findings).splitlines()
    assert said[0].startswith("WARNING: few people are held out, so that most results will stay undecided: sites 4 of")
    assert sum("held out" in line for line in said) == 1
    assert said[-1] == "pre-flight check: nothing else to warn about"
    assert "held_out_people" not in describe_findings(findings, everything=True)


def test_enough_of_them_are_no_warning(tmp_path):
    cohort = cohort_of(tmp_path, sound(600))
    findings = examine(cohort)
    assert describe_top(findings) == ""
    assert describe_data(cohort, findings).startswith("participants: real data, 600 rows, ")
    assert "info: held_out_people: enough people are held out: sites 40 of each" in describe_findings(findings, True)


def test_names_with_line_breaks_take_one_line_each(tmp_path):
    plain, broken = (sound().assign(site=lambda t, name=name: t.site + name) for name in (" 2", "\x0b\x1b2"))
    said = []
    for table in (plain, broken):
        table.to_csv(tmp_path / "participants.csv", index=False)
        cohort = load_design(DataConfig(participants=str(tmp_path / "participants.csv")))
        findings = examine(cohort)
        said.append(f"{describe_data(cohort, findings)}\n{describe_findings(findings, everything=True)}")
    assert said[1].count("\n") == said[0].count("\n") and "\x1b" not in said[1] and "A  2" in said[1]


def test_files_are_named_by_path_and_only_those_that_are_there(tmp_path):
    (tmp_path / "derivatives" / "eqpool").mkdir(parents=True)
    for name in ("report.html", "results.json", "unknown.txt"):
        (tmp_path / name).write_text("")
    lines = describe_files(tmp_path).splitlines()
    paths = [line.split("  ")[1].strip() for line in lines[1:]]
    assert lines[0] == "written:"
    assert paths == [str(tmp_path / name) for name in ("derivatives/eqpool", "report.html", "results.json")]


@pytest.mark.parametrize("value", [None, np.nan])
def test_the_closing_table_says_not_defined_and_names_the_product(tmp_path, value):
    (tmp_path / "derivatives" / "eqpool").mkdir(parents=True)
    results = {"simulated": False, "dataset": "participants", "method": "ours", "seed": 0, "wall_seconds": 3.0}
    results |= {"device": "1 x cpu", "metrics": {"equivariance_error": value, "equivariance_error_interval": None}}
    said = describe_results(results, tmp_path)
    (line,) = [line for line in said.splitlines() if line.startswith("  equivariance error")]
    assert "not defined" in line and "tau does not turn" in line and "nan" not in line
    assert f"{tmp_path / 'derivatives' / 'eqpool'}  the harmonised volumes, a BIDS derivative" in said


def test_a_latent_that_is_not_finite_is_said(tmp_path):
    results = {"simulated": False, "dataset": "participants", "method": "ours", "seed": 0, "wall_seconds": 3.0}
    said = describe_results(results | {"device": "1 x cpu", "metrics": {"non_finite_rows": 4}}, tmp_path)
    assert "no pooling result can be read from this run" in said


def test_the_closing_lines_are_the_files_the_verdict_and_the_report(tmp_path):
    for name in ("report.html", "results.json"):
        (tmp_path / name).write_text("")
    results = {"simulated": False, "dataset": "participants", "method": "ours", "seed": 0, "wall_seconds": 3.0}
    results |= {"device": "1 x cpu", "metrics": {"change_scale": 0.0}, "scorecard": card(BETTER, OPEN)}
    lines = describe_results(results, tmp_path).splitlines()
    start = lines.index("written:")
    assert str(tmp_path / "report.html") in lines[start + 1] and lines[start + 3] == "verdict:"
    assert lines[start + 4].startswith("  Site classification accuracy fell from 90% to 62% on 80 held-out rows")
    assert lines[start + 6].startswith("  The networks' change was scaled to nothing")
    assert lines[start + 7 :] == [f"report: {tmp_path / 'report.html'}"]
