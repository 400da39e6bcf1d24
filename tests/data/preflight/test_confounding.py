"""Every confounding that the pre-flight check knows, planted in a sound table."""

import numpy as np
import pytest

from eqpool.data.preflight.finding import refuse
from eqpool.errors import InputError
from tests.data.preflight.test_findings import found, sound


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


def test_two_sites_that_do_not_meet_are_no_one_of_one_pairs(tmp_path):
    table = sound().assign(site=np.array(["A", "B"])[np.arange(60) // 30], age=np.arange(60.0))
    (finding,) = found(tmp_path, table)["covariate_overlap"]
    assert finding.message.startswith("age: the two sites do not overlap (5th to 95th percentile), A (")
