"""What two cohorts must share to hash alike, and what they need not."""

import hashlib

import numpy as np
import pytest

from eqpool.data.cohort import Cohort
from eqpool.data.fingerprint import data_hash
from eqpool.data.load import load_cohort
from eqpool.errors import InputError
from eqpool.storage.run_folder import RunFolder
from tests.data.tables.test_participants import HEADER, config, rows, write


def cohort_of(folder, *, sex: str = "", session: str = "") -> Cohort:
    """24 rows, whose further columns spell `sex` and `session`, a letter a row and over again."""
    spelled = {name: letters for name, letters in (("sex", sex), ("session_id", session)) if letters}
    lines = ["\t".join([line, *(text[i % len(text)] for text in spelled.values())]) for i, line in enumerate(rows())]
    path = write(folder, lines, header="\t".join([HEADER, *spelled]))
    return load_cohort(config(path, nuisances="sex" if sex else ""), folder)


def test_an_edited_nuisance_or_session_is_other_data(tmp_path):
    made = [
        cohort_of(tmp_path),
        cohort_of(tmp_path, sex="FM"),
        cohort_of(tmp_path, sex="FMM"),
        cohort_of(tmp_path, sex="AB"),  # the same rows under other levels
        cohort_of(tmp_path, session="12"),
        cohort_of(tmp_path, session="123"),
        cohort_of(tmp_path, session="12", sex="FM"),
    ]
    for cohort in made[1:]:
        np.testing.assert_array_equal(cohort.inputs, made[0].inputs)
        np.testing.assert_array_equal(cohort.split, made[0].split)
    assert len({data_hash(cohort) for cohort in made}) == len(made)
    assert data_hash(cohort_of(tmp_path, sex="FM", session="12")) == data_hash(made[-1])


def test_a_cohort_without_them_hashes_as_it_always_did(tmp_path):
    cohort = cohort_of(tmp_path)
    expected = hashlib.sha256(repr((("A", "B"), ("age",), ("ill", "well"))).encode())
    for column in (cohort.participant_id, cohort.split, cohort.site, cohort.covariates, cohort.target, cohort.inputs):
        expected.update(column.tobytes())
    assert data_hash(cohort) == expected.hexdigest()


def test_a_run_does_not_go_on_with_an_edited_nuisance(tmp_path):
    folder = tmp_path / "run"
    RunFolder(folder).claim_data(data_hash(cohort_of(tmp_path, sex="FM")), "participant_id\nsub-00\n")
    (folder / "metrics.jsonl").touch()
    RunFolder(folder).claim_data(data_hash(cohort_of(tmp_path, sex="FM")), "participant_id\nsub-00\n")
    with pytest.raises(InputError, match="made with other data: the same rows, but other .*nuisances"):
        RunFolder(folder).claim_data(data_hash(cohort_of(tmp_path, sex="FMM")), "participant_id\nsub-00\n")
