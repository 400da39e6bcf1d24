"""The command: one line a finding on stdout, exit code 2 and one line on stderr for what cannot be identified."""

import json

import numpy as np
import pytest

from eqpool.commands.preflight import main
from tests.data.preflight.test_findings import sound


def write(folder, table, name="participants.csv"):
    path = folder / name
    table.to_csv(path, index=False, na_rep="n/a")
    return path


def test_it_prints_every_finding_and_writes_them(tmp_path, capsys):
    table = sound()
    table.loc[0, "thickness"] = 0
    findings = tmp_path / "findings.json"
    arguments = [f"--participants={write(tmp_path, table)}", "--target=dx", "--features=thickness,volume"]
    assert main([*arguments, "--covariates=age,sex:categorical", f"--json={findings}"]) == 0
    printed = capsys.readouterr()
    assert "60 rows, 3 sites" in printed.out and "warning: failed_measurements" in printed.out
    assert printed.err == ""
    stored = json.loads(findings.read_text())
    assert {"severity", "check", "message"} <= stored[0].keys()
    assert [entry["zeros"] for entry in stored if entry["check"] == "failed_measurements"] == [{"thickness": 1}]


@pytest.mark.parametrize(
    ("change", "arguments", "expected"),
    [
        ({"dx": lambda t: t.site}, ["--target=dx"], "target dx is decided by the site"),
        ({"age": lambda t: t.site.map({"A": 1, "B": 2, "C": 3})}, [], "covariate age is decided by the site"),
        ({"thickness": np.nan}, ["--features=thickness"], "feature thickness has no value in any row"),
        ({"participant_id": "sub-1"}, [], "line 3 (sub-1): the same participant_id as line 2"),
        ({"age": "old"}, [], "column age"),
        ({}, ["--covariates=years"], "no column years"),
        ({"site": "n/a"}, [], "0 site (none), expected at least two to pool"),
        ({"site": "A"}, [], "1 site (A), expected at least two to pool"),
        ({}, ["--features=depth"], "no column depth"),
    ],
)
def test_refusals_are_one_line_and_exit_code_two(tmp_path, capsys, change, arguments, expected):
    path = write(tmp_path, sound().assign(**change))
    assert main([f"--participants={path}", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1 and error.startswith("eqpool: ")


def test_a_subject_in_two_splits_is_refused(tmp_path, capsys):
    table = sound().assign(split="train", session_id="1")
    table.loc[1, ["participant_id", "split", "session_id"]] = ["sub-00", "test", "2"]
    assert main([f"--participants={write(tmp_path, table)}"]) == 2
    assert "another scan of this participant is in train" in capsys.readouterr().err
