"""Training sees no test row, no unknown target and nothing learnt from them: poison them, and every bit stays."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from eqpool.config import BaselineConfig, DataConfig, ModelConfig, RunConfig, StageOneConfig, StageTwoConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.load import load_cohort
from eqpool.engine import data_parallel
from eqpool.engine.session import Session
from eqpool.methods.latent import train_latents
from eqpool.storage.logs import MemoryLog
from tests.conftest import quickly_compiled

pytestmark = pytest.mark.usefixtures("quick_compile")
ROWS = 60


def write_table(folder: pathlib.Path, poisoned: tuple[str, ...] = ()) -> pathlib.Path:
    """Sixty rows, every fifth a test row, whose `poisoned` columns hold something else altogether."""
    generator, other = np.random.default_rng(0), np.random.default_rng(1)
    columns = ["participant_id", "site", "age", "sex", "dx", "x_1", "x_2", "x_kind", "split"]
    lines = ["\t".join(columns)]
    for number in range(ROWS):
        split = "test" if number % 5 == 0 else "validation" if number % 5 == 1 else "train"
        values = {
            "participant_id": f"sub-{number:02d}", "site": "AB"[number % 2], "age": f"{generator.uniform(20, 80):.2f}",
            "sex": "FM"[number // 3 % 2], "dx": str(number // 2 % 2), "x_1": f"{generator.normal() + number % 2:.4f}",
            "x_2": f"{generator.normal():.4f}", "x_kind": "uvw"[number % 3], "split": split,
        }  # fmt: skip
        if split == "test":
            poison = {
                "site": "BA"[number % 2], "age": f"{other.uniform(500, 900):.2f}", "sex": "MF"[number // 3 % 2],
                "dx": str(1 - number // 2 % 2), "x_1": "1e6", "x_2": "n/a", "x_kind": "never seen",
            }  # fmt: skip
            values |= {name: poison[name] for name in poisoned}
        lines.append("\t".join(values[name] for name in columns))
    folder.mkdir()
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")
    return folder / "participants.tsv"


def cohort_of(table: pathlib.Path, calibration: str = "covariance") -> Cohort:
    config = DataConfig(
        participants=str(table), features="x_*", covariates="age", nuisances="sex", site_calibration=calibration
    )
    return load_cohort(config, table.parent / "cache", progress=False)


SETTINGS = RunConfig(
    devices=1,
    model=ModelConfig(latent_dim=6, hidden_units=8),
    stage_one=StageOneConfig(epochs=3, batch_size=16, prediction_weight=1.0, mmd_weight=1.0, learning_rate=1e-2),
    stage_two=StageTwoConfig(epochs=3, batch_size=16, learning_rate=1e-2),
    baseline=BaselineConfig(epochs=3, batch_size=16, learning_rate=1e-2),
)


def trained(cohort: Cohort, folder: pathlib.Path, method: str = "ours") -> dict[str, str]:
    """The digest of each stage's whole last state: parameters, optimizer, and the selected epoch."""
    config = dataclasses.replace(SETTINGS, method=method)
    session = Session(config, data_parallel.make_mesh(1), folder / "checkpoints", MemoryLog(), jax.random.key(0))
    if method != "ours":
        cohort = dataclasses.replace(cohort, nuisance=None, nuisance_names=(), nuisance_levels=())
    train_latents(session, cohort, Scaling.fit(cohort))
    records = (folder / "checkpoints").glob("*/3/_CHECKPOINT_METADATA")
    return {path.parts[-3]: json.loads(path.read_text())["custom_metadata"]["sha256"] for path in records}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Cohort:
    return cohort_of(write_table(tmp_path_factory.mktemp("whole") / "table"))


@pytest.fixture(scope="module")
def clean(whole, tmp_path_factory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("clean")
    with quickly_compiled():
        return {method: trained(whole, folder / method, method) for method in ("ours", "cai")}


EVERYTHING = ("site", "age", "sex", "dx", "x_1", "x_2", "x_kind")


def test_what_is_fitted_before_training_comes_from_training_rows(whole, tmp_path):
    poisoned = cohort_of(write_table(tmp_path / "table", EVERYTHING))
    assert poisoned.table.encoding == whole.table.encoding
    assert "never seen" not in str(whole.table.encoding) and poisoned.site_names == whole.site_names
    assert Scaling.fit(poisoned).to_dict() == Scaling.fit(whole).to_dict()
    for name, values in whole.table.calibration.to_arrays().items():
        np.testing.assert_array_equal(poisoned.table.calibration.to_arrays()[name], values)
    rows = whole.rows("train")
    np.testing.assert_array_equal(poisoned.inputs[rows], whole.inputs[rows])
    assert not np.array_equal(poisoned.inputs, whole.inputs, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ours", "cai"])
def test_poisoned_test_rows_leave_every_trained_bit(clean, tmp_path, method):
    digests = trained(cohort_of(write_table(tmp_path / "table", EVERYTHING)), tmp_path / "run", method)
    assert digests == clean[method] and digests


@pytest.mark.slow
def test_a_training_row_does_reach_training(whole, clean, tmp_path):
    """The tests above can fail; and trained twice on the same rows, all bits are the same."""
    inputs = whole.inputs.copy()
    inputs[whole.rows("train")[3], 0] += 0.5
    changed = trained(dataclasses.replace(whole, inputs=inputs), tmp_path / "changed", "cai")
    assert changed and all(changed[stage] != clean["cai"][stage] for stage in changed)
    assert trained(whole, tmp_path / "again", "cai") == clean["cai"]


def test_scans_of_a_subject_stay_in_one_split(tmp_path):
    lines = ["participant_id\tsession_id\tsite\tage\tdx\tx_1"]
    for number in range(90):
        subject, session, label = number // 3, number % 3, number // 6 % 2
        lines.append(f"sub-{subject:02d}\t{session}\t{'AB'[number % 2]}\t{20 + number}\t{label}\t{number}")
    (tmp_path / "participants.tsv").write_text("\n".join(lines))
    cohort = load_cohort(
        DataConfig(participants=str(tmp_path / "participants.tsv"), features="x_*"), tmp_path / "cache"
    )
    of_subject = {name: set(cohort.split[cohort.participant_id == name]) for name in set(cohort.participant_id)}
    assert all(len(splits) == 1 for splits in of_subject.values()) and len({*cohort.split}) == 3
