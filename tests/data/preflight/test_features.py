"""Every fault of features that the pre-flight check knows, planted in a sound table."""

import numpy as np
import pandas as pd
import pytest

from eqpool.data.preflight.features import examine_features
from tests.data.preflight.test_findings import found, sound


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
