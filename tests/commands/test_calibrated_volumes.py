"""A run whose volumes are calibrated: what it writes, how it resumes, and scans of unknown and new scanners."""

import dataclasses
import json
import pathlib
import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest

from eqpool.commands.new_scans import transform
from eqpool.commands.transform import main
from eqpool.config import DataConfig, RunConfig
from eqpool.data.fingerprint import data_hash
from eqpool.data.load import load_cohort
from eqpool.data.site_effects.combat import Combat
from eqpool.data.site_effects.voxelwise import VoxelCalibration
from eqpool.data.sources.volume_calibration import calibrate_volumes, volume_calibration_notes
from eqpool.errors import InputError
from eqpool.methods.base import load_trained
from eqpool.methods.crossfit import _hold_out
from eqpool.storage.files import read_arrays
from eqpool.storage.run_folder import RunFolder
from tests.common_scale import changed, common_scale, rescaled
from tests.conftest import tiny_config, train_quickly


def config_in(folder: pathlib.Path, **data) -> RunConfig:
    config = tiny_config(folder)
    return dataclasses.replace(
        config, data=dataclasses.replace(config.data, **({"site_calibration": "location_scale"} | data))
    )


def load(config: RunConfig):
    return load_cohort(config.data, pathlib.Path(config.cache_dir), progress=False)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("calibrated")
    train_quickly(config_in(folder), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def cohort(run_folder):
    return load(config_in(run_folder.parent))


def table_of(cohort, folder, rows, **columns) -> pathlib.Path:
    """Writes a table of the cohort's scans under other names, with their images beside it."""
    folder.mkdir(exist_ok=True)
    table = {"participant_id": [f"new{row}" for row in rows], "path": [f"{row}.nii.gz" for row in rows]}
    for row in rows:
        shutil.copy(cohort.volumes.image_path[row], folder / f"{row}.nii.gz")
    pd.DataFrame(table | columns).to_csv(folder / "participants.tsv", sep="\t", index=False)
    return folder / "participants.tsv"


def test_what_is_read_is_what_the_stored_calibration_makes_of_the_prepared_volume(run_folder, cohort):
    stored = VoxelCalibration.from_arrays(read_arrays(RunFolder(run_folder).calibration_file))
    prepared = load(config_in(run_folder.parent, site_calibration="none"))
    assert cohort.inputs.shape == prepared.inputs.shape and cohort.inputs.dtype == np.float32
    assert data_hash(cohort) == data_hash(prepared)
    for row in (0, 9, 17):
        np.testing.assert_array_equal(cohort.uncalibrated[row], prepared.inputs[row])
        by_hand = stored.apply(prepared.inputs[row], cohort.site_names[cohort.site[row]])
        np.testing.assert_allclose(cohort.inputs[row], by_hand, atol=2e-3)
        assert np.abs(cohort.inputs[row] - prepared.inputs[row]).max() > 0.01
    np.testing.assert_array_equal(cohort.inputs[[3, 1]], np.stack([cohort.inputs[3], cohort.inputs[1]]))
    taken = cohort.take(np.array([4, 2]))
    np.testing.assert_array_equal(taken.inputs[1], cohort.inputs[2])
    np.testing.assert_array_equal(taken.uncalibrated[1], prepared.inputs[2])


def test_only_training_rows_are_learnt_from(run_folder, cohort):
    assert cohort.volumes.calibration.rows.sum() == (cohort.split == "train").sum()
    for number, fold in enumerate((np.arange(18) % 3 == 0, np.arange(18) % 3 == 1)):
        folds = np.where(fold, number, number + 1)
        held = _hold_out(cohort, folds, number, config_in(run_folder.parent))
        seen = held.volumes.calibration
        assert seen.rows.sum() == (held.split == "train").sum() and not (held.split[fold] == "train").any()
        other = np.array(cohort.uncalibrated)
        other[fold] += 5.0  # the fold's volumes must not matter
        changed = dataclasses.replace(
            held, inputs=other, volumes=dataclasses.replace(held.volumes, prepared=None, calibration=None)
        )
        again = calibrate_volumes(changed, config_in(run_folder.parent).data).volumes.calibration
        np.testing.assert_allclose(again.location, seen.location, atol=1e-9)


def test_volumes_of_one_participant_share_a_random_effect(run_folder, cohort):
    data, train = config_in(run_folder.parent).data, cohort.rows("train")
    person = cohort.participant_id.copy()
    person[train] = np.resize(["p3", "p1", "p2", "p1", "p4"], len(train))
    own = {
        one: np.random.default_rng(int(one[1])).normal(size=cohort.inputs.shape[1:]) for one in np.unique(person[train])
    }
    prepared = np.array(cohort.uncalibrated)
    prepared[train] += np.stack([own[one] for one in person[train]]).astype(np.float32)
    volumes = dataclasses.replace(cohort.volumes, prepared=None, calibration=None)
    cohort = dataclasses.replace(cohort, inputs=prepared, volumes=volumes, participant_id=person)
    made = calibrate_volumes(cohort, data)
    found, grid = made.volumes.calibration, cohort.volumes.grid
    values = np.stack([cohort.uncalibrated[row][grid.mask] for row in train])
    zero = -float(np.median(cohort.volumes.tissue_mean[train] / cohort.volumes.tissue_deviation[train]))
    columns = cohort.site_labels[train], cohort.covariates[train], cohort.target_columns[train]
    by_hand, blind = (
        VoxelCalibration.fit_stream(
            lambda: [(np.arange(len(train)), values)], *columns,
            mask=grid.mask, voxel_mm=found.voxel_mm, zero=zero, subject=subject,
        )
        for subject in (person[train], None)
    )  # fmt: skip
    for name in ("location", "log_scale", "variance"):
        np.testing.assert_allclose(getattr(found, name), getattr(by_hand, name), atol=1e-5, err_msg=name)
    assert np.abs(found.location - blind.location).max() > 1e-3
    notes = volume_calibration_notes(made, data)
    assert any(note.startswith("4 participants have several of these volumes") for note in notes)


def test_a_written_volume_is_the_input_and_both_changes(run_folder, cohort):
    trained = load_trained(RunFolder(run_folder))
    for row in (0, 11):
        name = cohort.participant_id[row]
        written = nibabel.load(run_folder / f"derivatives/eqpool/{name}/anat/{name}_desc-harmonized_T1w.nii.gz")
        source = nibabel.load(cohort.volumes.image_path[row])
        encoded = trained.encode(cohort.inputs[row][None])
        change = trained.decode(encoded["pooled_latent"])[0] - trained.decode(encoded["latent"])[0]
        change = change + cohort.inputs[row] - cohort.uncalibrated[row]
        values, mask = source.get_fdata(), cohort.volumes.grid.mask
        scale = common_scale(cohort)
        expected = rescaled(changed(values, mask, change), mask, scale)
        np.testing.assert_allclose(written.get_fdata(), np.maximum(expected, 0), rtol=1e-3, atol=1e-2 * scale[1])
    description = json.loads((run_folder / "derivatives/eqpool/dataset_description.json").read_text())
    assert "site calibration" in description["GeneratedBy"][0]["Description"]


def test_results_score_the_calibration_alone_beside_the_input(run_folder):
    results = json.loads((run_folder / "results.json").read_text())
    metrics = results["metrics"]
    low, high = metrics["recovery_error_calibrated_interval"]
    assert low <= metrics["recovery_error_calibrated"] <= high
    assert metrics["recovery_error_calibrated"] != metrics["recovery_error_input"]
    assert any("volumes are calibrated (site_calibration = location_scale)" in note for note in results["notes"])


def test_a_finished_run_resumes_and_a_run_without_its_calibration_is_refused(run_folder, cohort, tmp_path):
    train_quickly(config_in(run_folder.parent), run_folder)
    again = tmp_path / "copy"
    shutil.copytree(run_folder, again)
    (again / "results.json").unlink()
    train_quickly(config_in(run_folder.parent), again)
    (again / "calibration.npz").unlink()
    with pytest.raises(InputError, match=r"calibration.npz: not found"):
        transform(again, table_of(cohort, tmp_path / "new", [0]), tmp_path / "out")


def test_new_scans_get_the_same_as_in_the_run_and_unknown_sites_are_predicted(run_folder, cohort, tmp_path):
    rows = [0, 7, 16]
    site = [cohort.site_names[cohort.site[row]] for row in rows]
    said: list[str] = []
    transform(run_folder, table_of(cohort, tmp_path / "named", rows, site=site), tmp_path / "out", say=said.append)
    assert said == []
    trained = pd.read_csv(run_folder / "embeddings.tsv", sep="\t")
    made = pd.read_csv(tmp_path / "out" / "embeddings.tsv", sep="\t")
    columns = [name for name in trained if name.startswith("l_")]
    np.testing.assert_allclose(made[columns], trained[columns].iloc[rows], rtol=1e-3, atol=1e-4)
    given = table_of(cohort, tmp_path / "unknown", rows, site=[site[0], "n/a", "n/a"])
    transform(run_folder, given, tmp_path / "guessed", say=said.append)
    assert len(said) == 1 and said[0].startswith("2 rows without a calibrated site: it is predicted from the volume")


def test_rows_of_the_run_without_a_site_are_counted_in_its_notes(run_folder, cohort):
    config = config_in(run_folder.parent)
    blind = np.where(cohort.split == "test", -1, cohort.site).astype(cohort.site.dtype)
    made = calibrate_volumes(dataclasses.replace(cohort, site=blind), config.data)
    row = int(cohort.rows("test")[0])
    expected = made.volumes.calibration.apply(made.uncalibrated[row], "")
    np.testing.assert_allclose(made.inputs[row], expected, atol=1e-6)


def test_controls_of_a_new_scanner_are_calibrated_beside_the_output(run_folder, cohort, tmp_path):
    rows = [1, 4, 8, 13]
    controls = table_of(
        cohort, tmp_path / "controls", rows, site=["Toshiba"] * 4, age=[70, 65, 72, 80], dx=["Control"] * 4
    )
    scans = table_of(cohort, tmp_path / "new", [0, 2], site=["Toshiba", "site1"])
    before = (run_folder / "calibration.npz").read_bytes()
    said: list[str] = []
    transform(run_folder, scans, tmp_path / "out", calibrate=controls, say=said.append)
    assert said == ["site Toshiba: scanner effects learnt from 4 controls are added"]
    assert (run_folder / "calibration.npz").read_bytes() == before
    known = VoxelCalibration.from_arrays(read_arrays(run_folder / "calibration.npz"))
    added = VoxelCalibration.from_arrays(read_arrays(tmp_path / "out" / "calibration.npz"))
    assert added.sites == (*known.sites, "Toshiba") and added.rows[-1] == 4
    np.testing.assert_array_equal(added.location[:-1], known.location)
    by_hand = known.with_site(
        "Toshiba",
        np.stack([cohort.uncalibrated[row][known.mask] for row in rows]),
        np.array([[70.0], [65], [72], [80]]),
        np.ones((4, 1)),
    )
    np.testing.assert_allclose(added.location[-1], by_hand.location[-1], atol=1e-4)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"site": ["Toshiba", "n/a"], "age": [70, 71]}, r"line 3 \(new4\), column site: missing, expected the site"),
        ({"site": ["Toshiba", "Toshiba"]}, r"no column age \(a covariate of the run\)"),
        (
            {"site": ["Toshiba", "Toshiba"], "age": [70, "n/a"]},
            r"line 3 \(new4\), column age: missing, expected a value",
        ),
    ],
)
def test_controls_that_lack_what_is_needed_are_refused(run_folder, cohort, tmp_path, columns, expected):
    controls = table_of(cohort, tmp_path / "controls", [1, 4], **columns)
    with pytest.raises(InputError, match=expected):
        transform(run_folder, controls, tmp_path / "out", calibrate=controls)


def test_the_command_takes_controls_and_a_run_without_calibration_refuses_them(
    trained_volumes, cohort, tmp_path, capsys
):
    controls = table_of(cohort, tmp_path / "controls", [1, 4], site=["new", "new"], age=[70, 71])
    arguments = [f"--workdir={trained_volumes}", f"--participants={controls}", f"--output={tmp_path / 'out'}"]
    assert main([*arguments, f"--calibrate={tmp_path / 'none.tsv'}"]) == 2
    assert "none.tsv" in capsys.readouterr().err
    assert main([*arguments, f"--calibrate={controls}"]) == 2
    assert "the run has no site calibration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"site_calibration": "covariance"}, '"covariance": expected one of none, location, location_scale'),
        ({"squash": True}, 'site_calibration = "location_scale": expected "none" with config.data.squash'),
        (
            {"reference": "GE"},
            r'config.data.reference = "GE": expected a site of the training rows, site1, site2, site3',
        ),
    ],
)
def test_what_does_not_fit_volumes_is_refused_in_one_line(run_folder, data, expected):
    with pytest.raises(InputError, match=expected) as caught:
        load(config_in(run_folder.parent, **data))
    assert "\n" not in str(caught.value)


def test_a_table_takes_controls_too(tmp_path):
    random = np.random.default_rng(0)

    def write(path, sites, rows, shift):
        site, age = np.resize(sites, rows), random.uniform(50, 80, rows).round(1)
        values = (
            random.normal(size=(rows, 3)) + np.outer(age - 65, [0.02, 0, 0]) + np.vectorize(shift.get)(site)[:, None]
        )
        table = pd.DataFrame(values, columns=["f1", "f2", "f3"]).assign(
            site=site, age=age, dx=np.resize(["CN", "CN", "AD", "AD"], rows)
        )
        table.insert(0, "participant_id", [f"{path.stem}{row}" for row in range(rows)])
        table.to_csv(path, sep="\t", index=False)
        return path

    path = write(tmp_path / "train.tsv", ["a", "b"], 60, {"a": 0.0, "b": 1.0})
    tiny = tiny_config(tmp_path)
    data = DataConfig(participants=str(path), features="f1,f2,f3", site_calibration="location")
    config = dataclasses.replace(tiny, data=data)
    train_quickly(config, tmp_path / "run")
    controls = write(tmp_path / "controls.tsv", ["c"], 20, {"c": 3.0})
    scans = write(tmp_path / "new.tsv", ["c"], 30, {"c": 3.0})
    said: list[str] = []
    for name, calibrate in (("plain", None), ("calibrated", controls)):
        transform(tmp_path / "run", scans, tmp_path / name, calibrate=calibrate, say=said.append)
    plain, made = (pd.read_csv(tmp_path / name / "harmonised.tsv", sep="\t") for name in ("plain", "calibrated"))
    assert "site c: scanner effects learnt from 20 controls are added" in said
    assert not np.allclose(plain[["f1", "f2", "f3"]], made[["f1", "f2", "f3"]])
    train = pd.read_csv(path, sep="\t")[["f1", "f2", "f3"]].mean().mean()
    off = [abs(table[["f1", "f2", "f3"]].mean().mean() - train) for table in (plain, made)]
    assert off[1] < off[0]


def test_combat_as_a_calibration_is_combat_about_the_mean_training_volume(run_folder):
    """In one matrix of all voxels of the mask, beside covariates and target."""
    corrected = load(config_in(run_folder.parent, site_calibration="combat"))
    mask, prepared = corrected.volumes.grid.mask, corrected.uncalibrated
    voxels = np.stack([prepared[row][mask] for row in range(len(prepared))]).astype(np.float64)
    train, names = corrected.rows("train"), corrected.site_labels
    kept = corrected.covariates[train], corrected.target_columns[train]
    expected = Combat.fit(voxels[train], names[train], *kept, shared_ratio=True).apply(voxels, names)
    for row in (0, 5, 17):
        np.testing.assert_allclose(corrected.inputs[row][mask], expected[row], atol=2e-3)
    assert np.abs(expected - voxels).max() > 0.05
    stored = VoxelCalibration.from_arrays(corrected.volumes.calibration.to_arrays())
    np.testing.assert_allclose(stored.apply(prepared[5], names[5])[mask], expected[5], atol=2e-3)
