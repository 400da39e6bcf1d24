"""Controls of a scanner that a run was not trained on: their covariates, and repeated scans of one of them."""

import contextlib
import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from eqpool.config import DataConfig, RunConfig
from eqpool.data.cohort import Scaling
from eqpool.data.load import load_cohort
from eqpool.data.tables.participants import read_participants
from eqpool.errors import InputError
from eqpool.methods.base import NewScans
from eqpool.methods.controls import with_controls
from eqpool.methods.facts import ModelFacts
from eqpool.storage.run_folder import RunFolder


def people(rows=90, sites=("A", "B"), coils=("birdcage", "head", "surface"), shift=0.0, seed=0):
    """The coil moves the volume by 2 and 4, and the site the thickness."""
    random = np.random.default_rng(seed)
    site, coil, age = (
        np.resize(sites, rows),
        np.resize(np.repeat(coils, 2), rows),
        random.uniform(20, 80, rows).round(1),
    )
    level = np.vectorize({"birdcage": 0.0, "head": 2.0, "surface": 4.0, "phased": 9.0}.get)(coil)
    values = random.normal(size=(rows, 2)) + np.column_stack([(site == "B") + shift, level])
    table = pd.DataFrame(values, columns=["thickness", "volume"])
    dx = np.resize(np.repeat(["CN", "AD"], 6), rows)
    return table.assign(participant_id=[f"sub-{row:02d}" for row in range(rows)], site=site, coil=coil, age=age, dx=dx)


@pytest.fixture
def trained(tmp_path):
    people().to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    data = DataConfig(
        participants=str(tmp_path / "participants.tsv"), features="thickness,volume", covariates="age,coil:categorical",
        site_calibration="location_scale",
    )  # fmt: skip
    cohort = load_cohort(data, tmp_path / "cache", progress=False)
    (tmp_path / "run").mkdir()
    ModelFacts.of(cohort, Scaling.fit(cohort)).write(RunFolder(tmp_path / "run"))
    facts = ModelFacts.read(RunFolder(tmp_path / "run"))

    def calibrate(controls, facts=facts):
        controls.to_csv(tmp_path / "controls.tsv", sep="\t", index=False)
        scans = NewScans(read_participants(tmp_path / "controls.tsv"), [], tmp_path, contextlib.nullcontext)
        return with_controls(cohort.table.calibration, scans, RunConfig(data=data), facts, lambda line: None)

    return calibrate, facts


def test_a_category_that_the_run_does_not_know_is_refused(trained):
    calibrate, _ = trained
    with pytest.raises(InputError) as caught:
        calibrate(people(12, sites=("C",), coils=("phased",)))
    message = str(caught.value)
    assert message.endswith("line 2 (sub-00), column coil: phased, expected one of birdcage, head, surface")
    with pytest.raises(InputError, match=r"line 4 \(sub-02\), column coil: phased, expected one of birdcage, head"):
        calibrate(people(12, sites=("C",), coils=("surface", "phased")))


@pytest.mark.parametrize("coil", ["birdcage", "surface"])
def test_controls_of_one_known_category_are_read_as_that_category(coil, trained):
    """The first one has no column of its own. What the coil does to the volume is not the scanner's doing."""
    calibration = trained[0](people(40, sites=("C",), coils=(coil,), shift=3.0, seed=1))
    shift = calibration.sites["C"].shift
    assert shift[0] > 1.0 and abs(shift[1]) < 0.5  # of 1.2 to 2.4 from one coil to another


def test_runs_of_before_take_the_one_level_without_a_column_for_the_first(trained):
    calibrate, facts = trained
    older = dataclasses.replace(facts, first_levels={})
    controls = people(12, sites=("C",), coils=("birdcage", "head"))
    np.testing.assert_array_equal(calibrate(controls, older).sites["C"].centre, calibrate(controls).sites["C"].centre)
    with pytest.raises(InputError, match="column coil: phased, expected one of birdcage, head, surface"):
        calibrate(people(12, sites=("C",), coils=("birdcage", "phased")), older)


def test_a_damaged_record_of_the_levels_is_refused_in_one_line(trained, tmp_path):
    path = RunFolder(tmp_path / "run").model_file
    values = json.loads(path.read_text())
    for damaged in (3, ["head"], None):
        path.write_text(json.dumps(values | {"first_levels": damaged}))
        with pytest.raises(InputError, match="model.json: expected what eqpool wrote") as caught:
            ModelFacts.read(RunFolder(tmp_path / "run"))
        assert "\n" not in str(caught.value)


def test_scans_of_one_control_do_not_count_as_independent(trained):
    calibrate, _ = trained
    one = people(1, sites=("C",), shift=3.0, seed=2)
    again = pd.concat([one] * 8, ignore_index=True).assign(session_id=np.arange(8))
    again[["thickness", "volume"]] += 0.01 * np.random.default_rng(0).normal(size=(8, 2))
    eight = again.assign(participant_id=[f"sub-{row}" for row in range(8)])
    shifts = [calibrate(table).sites["C"].shift[0] for table in (one, again, eight)]
    assert shifts[1] == pytest.approx(shifts[0], rel=0.02) and shifts[2] > 1.5 * shifts[0]
