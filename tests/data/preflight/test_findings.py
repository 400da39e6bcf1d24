"""Every fault the pre-flight check knows, planted in a sound table, is found with its numbers."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from eqpool.commands.preflight import preflight
from eqpool.config import DataConfig
from eqpool.data.preflight.finding import refuse
from eqpool.data.preflight.findings import examine, examine_features
from eqpool.data.sources.participants_folder import load_design
from eqpool.errors import InputError


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


def test_a_target_decided_by_the_site_is_refused(tmp_path):
    table = sound().assign(dx=lambda t: np.where(t.site == "A", "ill", "well"))
    (finding,) = found(tmp_path, table)["target_confounded"]
    assert finding.severity == "refusal"
    with pytest.raises(InputError, match="target dx is decided by the site"):
        refuse([finding])


def test_a_target_that_goes_with_the_site(tmp_path):
    table = sound()
    table.loc[(table.site == "A") & (table.participant_id != "sub-06"), "dx"] = "ill"
    findings = found(tmp_path, table)
    (finding,) = findings["target_confounded"]
    assert finding.severity == "warning" and 0.3 < finding.numbers["association"] < 1
    assert findings["class_balance"][0].numbers["lacking"] == {"A": 1}


@pytest.mark.parametrize(("spread", "severity"), [(0, "refusal"), (1, "warning")])
def test_ages_that_differ_between_sites(tmp_path, spread, severity):
    table = sound()
    table["age"] = table.site.map({"A": 20, "B": 40, "C": 60}) + spread * (np.arange(60) // 3 % 5)
    findings = found(tmp_path, table)
    (finding,) = findings["covariate_confounded"]
    assert finding.severity == severity and finding.numbers["eta_squared"] == pytest.approx(1, abs=0.02)
    (finding,) = findings["covariate_overlap"]
    assert [share for *_, share in finding.numbers["overlap"]] == [0, 0, 0]
    assert "3 of 3 pairs" in finding.message


def test_covariates_that_say_the_same(tmp_path):
    table = sound().assign(months=lambda t: 12 * t.age)
    (finding,) = found(tmp_path, table, covariates="age,months")["condition_number"]
    assert finding.severity == "refusal"
    nearly = table.assign(months=lambda t: t.months + np.arange(60) % 2)
    (finding,) = found(tmp_path, nearly, covariates="age,months")["condition_number"]
    assert finding.severity == "warning" and finding.numbers["condition_number"] > 30


def test_a_nuisance_that_decides_the_target(tmp_path):
    table = sound().assign(dx=lambda t: t.sex.map({"F": "ill", "M": "well"}))
    (finding,) = found(tmp_path, table, nuisances="sex")["nuisance_confounded"]
    assert finding.severity == "refusal"


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


def test_two_sites_that_do_not_meet_are_no_one_of_one_pairs(tmp_path):
    table = sound().assign(site=np.array(["A", "B"])[np.arange(60) // 30], age=np.arange(60.0))
    (finding,) = found(tmp_path, table)["covariate_overlap"]
    assert finding.message.startswith("age: the two sites do not overlap (5th to 95th percentile), A (")


def test_faults_of_the_features():
    frame = sound()[["thickness", "volume"]].assign(empty=np.nan, same=1.0)
    frame.loc[7, "thickness"] = 0.0
    frame.loc[8, "volume"] = np.nan
    frame.loc[20] = frame.loc[10]
    findings = {finding.check: finding for finding in examine_features(frame, sound().participant_id.to_numpy())}
    assert findings["failed_measurements"].numbers["zeros"] == {"thickness": 1}
    assert findings["constant_features"].numbers["columns"] == ["same"]
    assert findings["duplicates"].numbers["rows"] == ["sub-20"]
    assert "sub-20 those of sub-10" in findings["duplicates"].message
    all_missing = [f for f in examine_features(frame, sound().participant_id.to_numpy()) if f.severity == "refusal"]
    assert [finding.numbers["columns"] for finding in all_missing] == [["empty"]]
    assert findings["missing_values"].numbers["share"] == {"volume": pytest.approx(1 / 60)}


def test_a_column_where_zero_is_usual_has_not_failed():
    frame = pd.DataFrame({"lesions": np.array([0.0, 0, 3, 1, 0, 2])})
    assert [f for f in examine_features(frame, np.arange(6)) if f.check == "failed_measurements"] == []


@pytest.mark.parametrize("code", [-999, 999, -9, 9999])
def test_a_code_among_the_ages_is_named_with_its_rows(tmp_path, code):
    table = sound()
    table.loc[[5, 31], "age"] = code
    (finding,) = found(tmp_path, table)["implausible_values"]
    assert finding.severity == "warning" and finding.numbers["rows"] == ["sub-05", "sub-31"]
    assert f"covariate age: {code} in 2 rows (sub-05, sub-31)" in finding.message
    assert finding.numbers["value"] == code


def test_codes_among_features_and_a_numeric_target(tmp_path):
    table = sound()
    table.loc[7, ["thickness", "volume"]] = [-999, 99999]
    findings = found(tmp_path, table)["implausible_values"]
    assert [(f.numbers["column"], f.numbers["value"], f.numbers["rows"]) for f in findings] == [
        ("thickness", -999, ["sub-07"]),
        ("volume", 99999, ["sub-07"]),
    ]
    (finding,) = found(tmp_path, table, target="thickness", features="volume")["implausible_values"][:1]
    assert "target thickness: -999 in 1 rows (sub-07)" in finding.message


def test_empty_and_nearly_empty_features_are_named():
    frame = sound()[["thickness", "volume"]].assign(zero=0.0, gaps=np.nan, few=0.0)
    frame.loc[3, "gaps"], frame.loc[[4, 5, 6], "few"] = 2.0, 1.0
    findings = [f for f in examine_features(frame, np.arange(60)) if f.check == "nearly_empty_features"]
    assert [finding.numbers["columns"] for finding in findings] == [["zero"], ["gaps", "few"]]
    assert findings[1].numbers["share"] == {"gaps": pytest.approx(1 / 60), "few": pytest.approx(3 / 60)}
    assert "zero" in findings[0].message and "gaps 1.7%, few 5.0%" in findings[1].message


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
