"""The scale of written volumes: in a run, for new scans in any gain, and for runs from before there was a choice."""

import dataclasses
import json
import pathlib
import shutil

import nibabel
import numpy as np
import pytest

from eqpool.commands.new_scans import transform
from eqpool.commands.transform import main
from eqpool.data.load import load_cohort
from eqpool.errors import InputError
from eqpool.storage.files import read_json, write_json
from eqpool.storage.run_folder import RunFolder
from tests.common_scale import common_scale, rescaled
from tests.conftest import tiny_config, train_quickly

GAIN = 2.75


@pytest.fixture(scope="module")
def cohort(trained_volumes):
    return load_cohort(tiny_config(trained_volumes.parent).data, trained_volumes.parent / "cache", progress=False)


@pytest.fixture
def scans(cohort, tmp_path) -> pathlib.Path:
    """One scan of the run, and the same as a scanner that nobody knows would give it: louder, and as floats."""
    image = nibabel.load(cohort.volumes.image_path[3])
    nibabel.save(image, tmp_path / "own.nii.gz")
    loud = nibabel.Nifti1Image((GAIN * image.get_fdata()).astype(np.float32), image.affine)
    nibabel.save(loud, tmp_path / "loud.nii.gz")
    rows = ["participant_id\tpath\tsite", "own\town.nii.gz\tsite1", "loud\tloud.nii.gz\tToshiba"]
    (tmp_path / "participants.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "participants.tsv"


@pytest.fixture
def older(trained_volumes, tmp_path) -> pathlib.Path:
    """The folder of a run by a version without common scales."""
    folder = tmp_path / "older"
    shutil.copytree(trained_volumes, folder, ignore=shutil.ignore_patterns("derivatives", "figures"))
    config, model = read_json(folder / "config.json"), read_json(folder / "model.json")
    del config["output"]["scale"], model["common_scale"]
    write_json(folder / "config.json", config)
    write_json(folder / "model.json", model)
    return folder


def volume(folder: pathlib.Path, name: str) -> np.ndarray:
    return nibabel.load(next(folder.rglob(f"{name}_desc-harmonized_T1w.nii.gz"))).get_fdata()


def test_new_scans_in_any_gain_get_the_volume_of_the_run(trained_volumes, cohort, scans, tmp_path):
    transform(trained_volumes, scans, tmp_path / "out", say=lambda text: None)
    own, loud = (volume(tmp_path / "out", f"sub-{name}") for name in ("own", "loud"))
    deviation = common_scale(cohort)[1]
    np.testing.assert_allclose(loud, own, atol=0.02 * deviation)
    of_run = volume(trained_volumes / "derivatives", cohort.participant_id[3])
    np.testing.assert_allclose(own, of_run, atol=0.02 * deviation)


def test_the_units_of_each_scan_by_request(trained_volumes, cohort, scans, tmp_path):
    arguments = [f"--workdir={trained_volumes}", f"--participants={scans}", f"--output={tmp_path / 'out'}"]
    assert main([*arguments, "--scale=as_scanned"]) == 0
    own, loud = (volume(tmp_path / "out", f"sub-{name}") for name in ("own", "loud"))
    mask = cohort.volumes.grid.mask
    np.testing.assert_allclose(loud, GAIN * own, atol=0.02 * GAIN * own[mask].std())
    on_scale = volume(trained_volumes / "derivatives", cohort.participant_id[3])
    kept = mask & (on_scale > 0) & (own > 0)
    np.testing.assert_allclose(rescaled(own, mask, common_scale(cohort))[kept], on_scale[kept], rtol=5e-3)


def test_an_older_run_gives_the_units_of_each_scan_and_refuses_a_scale_that_it_lacks(older, scans, cohort, tmp_path):
    transform(older, scans, tmp_path / "out", say=lambda text: None)
    own, loud = (volume(tmp_path / "out", f"sub-{name}") for name in ("own", "loud"))
    np.testing.assert_allclose(loud, GAIN * own, atol=0.02 * GAIN * own.std())
    with pytest.raises(InputError, match='output.scale = "common": the run is of an earlier version'):
        transform(older, scans, tmp_path / "again", scale="common")
    assert not (tmp_path / "again").exists()


def test_an_older_run_goes_on_as_it_was_begun_and_says_so(older, trained_volumes, cohort, capsys):
    config = tiny_config(trained_volumes.parent)
    assert config.output.scale == "common"
    RunFolder(older).claim(config)  # finished, and not refused
    (older / "results.json").unlink()
    train_quickly(config, older)
    name = cohort.participant_id[3]
    sidecar = next((older / "derivatives").rglob(f"{name}_*_T1w.json"))
    assert json.loads(sidecar.read_text())["IntensityScale"] == "as_scanned"
    source, mask = nibabel.load(cohort.volumes.image_path[3]).get_fdata(), cohort.volumes.grid.mask
    on_scale = rescaled(source, mask, common_scale(cohort))
    made = volume(older / "derivatives", name)[mask]
    assert np.abs(made - source[mask]).mean() < 0.2 * np.abs(made - on_scale[mask]).mean()
    assert RunFolder(older).read_config().output.scale == "as_scanned"
    with pytest.raises(InputError, match=r"config.seed \(0 there, 1 now\)$"):
        RunFolder(older).claim(dataclasses.replace(config, seed=1))


def test_a_run_of_today_is_not_mixed_with_another_scale(trained_volumes):
    config = tiny_config(trained_volumes.parent)
    assert RunFolder(trained_volumes).claim(config) == config
    other = dataclasses.replace(config, output=dataclasses.replace(config.output, scale="as_scanned"))
    with pytest.raises(InputError, match=r"config.output.scale \('common' there, 'as_scanned' now\)$"):
        RunFolder(trained_volumes).claim(other)


def test_a_table_has_no_intensity_scale(older, tmp_path, scans, capsys):
    model = read_json(older / "model.json") | {"input_shape": [3], "preparation": 0, "dataset": "a table"}
    write_json(older / "model.json", model)
    arguments = [f"--workdir={older}", f"--participants={scans}", f"--output={tmp_path / 'out'}"]
    assert main([*arguments, "--scale=common"]) == 2
    assert capsys.readouterr().err == ("eqpool: --scale=common: the run is on a table, not on volumes; leave it out\n")


def test_a_folder_in_which_nothing_was_computed_starts_on_the_common_scale(tmp_path):
    write_json(tmp_path / "config.json", {"seed": 1})
    assert RunFolder(tmp_path).claim(tiny_config(tmp_path)).output.scale == "common"
    assert RunFolder(tmp_path).read_config().output.scale == "common"
