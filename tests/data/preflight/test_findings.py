"""Every fault the pre-flight check knows, planted in a sound table, is found with its numbers."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from eqpool.commands.preflight import preflight
from eqpool.config import DataConfig
from eqpool.data.preflight.findings import examine
from eqpool.data.sources.participants_folder import load_design


def sound(rows: int = 60) -> pd.DataFrame:
    """Three sites of 20, ages and diagnoses alike in each."""
    generator = np.random.default_rng(0)
    number = np.arange(rows)
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{i:02d}" for i in number],
            "site": np.array(list("ABC"))[number % 3],
            "age": 20 + (number // 3) * 2,
            "sex": np.array(["F", "M"])[number // 3 % 2],
            "dx": np.array(["ill", "well"])[number // 6 % 2],
            "thickness": np.round(generator.normal(2.5, 0.2, rows), 3),
            "volume": np.round(generator.normal(4000, 300, rows), 1),
        }
    )


def found(tmp_path, table: pd.DataFrame, **changes) -> dict[str, list]:
    path = tmp_path / "participants.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    config = DataConfig(participants=str(path), features="thickness,volume")
    findings = preflight(dataclasses.replace(config, **changes))[1]
    assert all("\n" not in finding.message for finding in findings)
    by_check: dict[str, list] = {}
    for finding in findings:
        if finding.severity != "info":
            by_check.setdefault(finding.check, []).append(finding)
    return by_check


def test_a_sound_table_gives_no_warning(tmp_path):
    table = sound(600)  # of which 60 rows have too few people held out
    assert found(tmp_path, table) == {}
    assert found(tmp_path, table, target="", nuisances="sex") == {}


def test_a_small_site(tmp_path):
    table = pd.concat([sound(), sound().iloc[[0]].assign(participant_id="sub-99", site="D", thickness=2.55)])
    (finding,) = found(tmp_path, table)["subjects_per_site"]
    assert finding.severity == "warning" and finding.numbers["few"] == {"D": 1}
    assert "D 1" in finding.message


def test_unknown_sites_and_targets(tmp_path):
    table = sound()
    table.loc[3, "site"] = np.nan
    table.loc[[4, 5], "dx"] = np.nan
    (finding,) = found(tmp_path, table)["unknown_rows"]
    assert (finding.numbers["site"], finding.numbers["target"]) == (1, 2)


@pytest.mark.parametrize(
    ("sites", "overlap", "subjects"),
    [("AB", "age: the two sites overlap", "2 sites with 30 subjects each"),
     ("ABC", "age: all 3 pairs of sites overlap", "3 sites with 20 subjects each"),
     ("AAB", "age: the two sites overlap", "2 sites with 20 to 40 subjects")],
)  # fmt: skip
def test_counts_are_said_as_they_are(tmp_path, sites, overlap, subjects):
    table = sound().assign(site=np.array([*sites])[np.arange(60) % len(sites)])
    path = tmp_path / "participants.tsv"
    table.to_csv(path, sep="\t", index=False)
    findings = preflight(DataConfig(participants=str(path), target="sex"))[1]
    messages = {finding.check: finding.message for finding in findings if finding.severity == "info"}
    assert messages["covariate_overlap"] == overlap and messages["subjects_per_site"] == subjects
    counts = table.groupby(["site", "sex"]).size()
    expected = "; ".join(f"{site}: F {counts[site, 'F']}, M {counts[site, 'M']}" for site in sorted(set(sites)))
    assert messages["class_balance"] == f"sex by site: {expected}"


@pytest.mark.parametrize("code", [-999, 999, -9, 9999])
def test_a_code_among_the_ages_is_named_with_its_rows(tmp_path, code):
    table = sound()
    table.loc[[5, 31], "age"] = code
    (finding,) = found(tmp_path, table)["implausible_values"]
    assert finding.severity == "warning" and finding.numbers["rows"] == ["sub-05", "sub-31"]
    assert f"covariate age: {code} in 2 rows (sub-05, sub-31)" in finding.message
    assert finding.numbers["value"] == code


def test_a_constant_covariate_is_refused(tmp_path):
    (finding,) = found(tmp_path, sound().assign(age=70))["constant_covariate"]
    assert finding.severity == "refusal" and "covariate age is constant (70)" in finding.message


def test_real_cohorts(shared_data):
    config = DataConfig(
        participants=str(shared_data / "cohorts" / "abide1" / "participants.tsv"),
        covariates="age,sex:categorical",
        features="*_thickness",
    )
    findings = {finding.check: finding for finding in examine(load_design(config)) if finding.severity == "warning"}
    assert findings["covariate_confounded"].numbers["eta_squared"] == pytest.approx(0.50, abs=0.005)
    assert sum(findings["failed_measurements"].numbers["zeros"].values()) > 0
    assert "target_confounded" not in findings
