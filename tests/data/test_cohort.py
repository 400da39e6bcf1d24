"""The parts of a cohort, and a cohort of some rows."""

import dataclasses

import numpy as np
import pytest

from eqpool.data.cohort import Cohort
from eqpool.data.load import load_cohort
from eqpool.data.tables.inputs import TableInputs
from eqpool.data.volumes.inputs import Grid
from tests.data.tables.test_participants import HEADER, config, rows, write
from tests.volume_inputs import volume_inputs

ROWS = np.array([4, 1, 1])
TINY = Grid("tiny", (2, 2, 2), np.eye(4), np.ones((2, 2, 2), bool))


@pytest.fixture
def cohort() -> Cohort:
    """Six rows whose columns all count the rows."""
    count = np.arange(6)
    return Cohort(
        name="six",
        simulated=True,
        participant_id=np.array([f"sub-{row}" for row in count]),
        inputs=count[:, None].astype(np.float32),
        site=(count % 2).astype(np.int32),
        site_names=("a", "b"),
        covariates=count[:, None].astype(np.float64),
        covariate_names=("age",),
        target=count.astype(np.float32),
        target_name="score",
        target_classes=(),
        split=np.repeat(["train", "test"], 3),
        session=np.array([f"ses-{row}" for row in count]),
    )


def test_some_rows_of_a_table_take_the_encoded_features_along(cohort):
    encoded = 10 * cohort.inputs
    taken = dataclasses.replace(cohort, table=TableInputs(("x",), encoded)).take(ROWS)
    assert taken.inputs[:, 0].tolist() == taken.covariates[:, 0].tolist() == taken.target.tolist() == [4, 1, 1]
    assert taken.participant_id.tolist() == ["sub-4", "sub-1", "sub-1"] and taken.session[0] == "ses-4"
    assert taken.split.tolist() == ["test", "train", "train"] and taken.site_names == ("a", "b")
    assert taken.table.encoded[:, 0].tolist() == [40, 10, 10] and taken.table.input_names == ("x",)
    assert taken.volumes is None and taken.nuisance is None


def test_some_rows_of_volumes_take_their_images_along(cohort):
    volumes = dataclasses.replace(volume_inputs(TINY, 6), tissue_mean=np.arange(6.0))
    maps = np.arange(6)[:, None, None] * np.eye(4)
    taken = dataclasses.replace(cohort, volumes=dataclasses.replace(volumes, alignment=maps)).take(ROWS).volumes
    assert taken.grid is TINY and taken.scan_name[0] == "sub-4/anat/sub-4"
    assert taken.tissue_mean.tolist() == [4, 1, 1]
    facts = taken.facts_of(0)
    assert (facts.tissue_mean, facts.tissue_deviation, facts.mask_overlap) == (4, 20, 0.9)
    np.testing.assert_array_equal(facts.alignment, 4 * np.eye(4))
    assert {len(value) for value in vars(taken).values() if isinstance(value, np.ndarray)} == {3}
    assert volumes.take(ROWS).alignment is None and volumes.facts_of(0).alignment is None


def test_calibrated_features_are_kept_beside_the_encoded_ones(tmp_path):
    noise = np.random.default_rng(0).normal(size=24)
    lines = [line.split("\t") for line in rows()]  # without noise and a site's effect there is nothing to calibrate
    for number, line in enumerate(lines):
        line[4] = str(float(line[4]) + noise[number] / 10 + (line[1] == "B"))
    path = write(tmp_path, ["\t".join(line) for line in lines], header=HEADER)
    plain, calibrated = (load_cohort(config(path, site_calibration=kind), tmp_path) for kind in ("none", "covariance"))
    assert plain.table.encoded is plain.inputs and plain.table.calibration is None
    np.testing.assert_array_equal(calibrated.table.encoded, plain.inputs)
    again = calibrated.table.calibration.apply(
        calibrated.table.encoded, np.array(calibrated.site_names)[calibrated.site]
    )
    np.testing.assert_array_equal(again, calibrated.inputs)
    assert not np.array_equal(calibrated.inputs, plain.inputs)
