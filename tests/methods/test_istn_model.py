"""An ISTN's work directory applied to new volumes. Its networks are not trained here: what is tested is the way."""

import dataclasses
import pathlib

import jax
import nibabel
import numpy as np
import pytest

from eqpool.commands.transform import main
from eqpool.config import IstnConfig, to_dict
from eqpool.data.cohort import Scaling
from eqpool.data.load import load_cohort
from eqpool.data.shape import DataShape
from eqpool.engine.state import create_state
from eqpool.methods.facts import ModelFacts
from eqpool.methods.istn import Istn
from eqpool.methods.istn_volumes import make_harmonise
from eqpool.objectives.istn import make_istn
from eqpool.objectives.task import make_task
from eqpool.storage import files
from eqpool.storage.checkpoints import Checkpoints
from eqpool.storage.run_folder import RunFolder
from tests.common_scale import changed, common_scale, rescaled
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def istn(tmp_path_factory):
    return saved_istn(tmp_path_factory.mktemp("istn"))


def saved_istn(folder: pathlib.Path, direction: str = "one_way"):
    """(work directory, config, cohort) of an ISTN of three sites that was saved before its first step."""
    config = tiny_config(folder)
    config = dataclasses.replace(
        config,
        method="istn",
        data=dataclasses.replace(config.data, grid="16x20x16", squash=True, balance="site"),
        istn=IstnConfig(
            encoder=(4, 4, 4, 4),
            bottleneck=(4,),
            decoder=(4, 4, 4),
            discriminator=(4, 4, 4, 4, 4),
            shape="none",
            direction=direction,
        ),
    )
    cohort = load_cohort(config.data, folder / "cache", progress=False)
    shape = DataShape.of(cohort)
    stage = make_istn(config, shape, make_task(config, shape).initialise(jax.random.key(0)))
    state = create_state(stage, stage.make_optimizer(7), jax.random.key(5))
    with Checkpoints(folder / "run" / "checkpoints" / "istn") as checkpoints:
        checkpoints.save(1, state)
    files.write_json(folder / "run" / "config.json", to_dict(config))
    reference = Istn().reference(config, cohort)
    ModelFacts.of(cohort, Scaling.fit(cohort), reference).write(RunFolder(folder / "run"))
    files.write_json(folder / "run" / "results.json", {})
    return folder / "run", config, cohort


def newcomers(cohort, folder: pathlib.Path, sites: tuple[str, ...]) -> pathlib.Path:
    lines = ["participant_id\tpath\tsite"]
    for row, site in enumerate(sites):
        (folder / f"{row}.nii.gz").write_bytes(pathlib.Path(cohort.volumes.image_path[row]).read_bytes())
        lines.append(f"new{row}\t{row}.nii.gz\t{site}")
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")
    return folder / "participants.tsv"


def test_new_scans_get_the_change_of_their_looks(istn, tmp_path):
    folder, config, cohort = istn
    table = newcomers(cohort, tmp_path, ("site1", "site3"))
    assert main([f"--workdir={folder}", f"--participants={table}", f"--output={tmp_path / 'out'}"]) == 0
    harmonise = make_harmonise(config, Istn().load(RunFolder(folder)).variables, 3)
    mask, at_reference = cohort.volumes.grid.mask, cohort.site[cohort.rows("train")] == 2
    scale = common_scale(cohort, cohort.rows("train")[at_reference])
    for row, site in ((0, 0), (1, 2)):
        path = tmp_path / f"out/derivatives/eqpool/sub-new{row}/anat/sub-new{row}_desc-harmonized_T1w.nii.gz"
        written, source = nibabel.load(path), nibabel.load(cohort.volumes.image_path[row])
        np.testing.assert_array_equal(written.affine, source.affine)
        squashed = np.array(cohort.inputs[row])
        made = harmonise(squashed, site).image
        change = np.arctanh(np.clip(made, -0.9999, 0.9999)) - np.arctanh(np.clip(squashed, -0.9999, 0.9999))
        values = source.get_fdata()
        expected = rescaled(changed(values, mask, change), mask, scale)
        np.testing.assert_allclose(written.get_fdata(), np.maximum(expected, 0), rtol=1e-3, atol=1e-2 * scale[1])
    steps = dict(np.load(tmp_path / "out" / "images" / "examples.npz"))
    np.testing.assert_allclose(steps["image"][1], harmonise(np.array(cohort.inputs[1]), 2).image, atol=1e-6)
    assert steps["name"].tolist() == ["new0", "new1"]
    assert (tmp_path / "out" / "figures" / "transformations.png").stat().st_size > 10_000
    overlap = np.round(cohort.volumes.mask_overlap, 4)
    assert (tmp_path / "out" / "written.tsv").read_text().splitlines() == [
        "participant_id\tsite\tmask_overlap", f"new0\tsite1\t{overlap[0]}", f"new1\tsite3\t{overlap[1]}"
    ]  # fmt: skip


def test_the_form_is_not_to_be_chosen(istn, tmp_path, capsys):
    folder, _, cohort = istn
    table = newcomers(cohort, tmp_path, ("site1",))
    arguments = [f"--workdir={folder}", f"--participants={table}", f"--output={tmp_path / 'out'}"]
    assert main([*arguments, "--harmonised=none"]) == 2
    assert "--harmonised=none: an ISTN has one form" in capsys.readouterr().err


def test_scans_of_the_reference_are_told_of(istn, tmp_path, capsys):
    folder, _, cohort = istn
    table = newcomers(cohort, tmp_path, ("site3", "site1", "site3"))
    assert main([f"--workdir={folder}", f"--participants={table}", f"--output={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "site site3: the reference, whose look its 2 rows have; they are transformed all the same" in said


def test_of_more_than_two_sites_it_has_to_know_which(istn, tmp_path, capsys):
    folder, _, cohort = istn
    table = newcomers(cohort, tmp_path, ("site1", "Toshiba"))
    assert main([f"--workdir={folder}", f"--participants={table}", f"--output={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert 'line 3 (new1), column site: "Toshiba", expected one of site1, site2, site3' in error
    assert error.count("\n") == 1


def test_scans_of_an_unknown_scanner_go_through_a_universal_istn(tmp_path):
    folder, _, cohort = saved_istn(tmp_path, "universal")
    written = []
    for name, sites in (("known", ("site1", "site2")), ("unknown", ("Toshiba", "n/a"))):
        (tmp_path / name).mkdir()
        table = newcomers(cohort, tmp_path / name, sites)
        output = tmp_path / name / "out"
        assert main([f"--workdir={folder}", f"--participants={table}", f"--output={output}"]) == 0
        written.append([nibabel.load(path).get_fdata() for path in sorted(output.rglob("*_T1w.nii.gz"))])
    np.testing.assert_array_equal(*written)
    assert len(written[0]) == 2


def test_a_bad_scan_is_left_out_by_request_and_listed(istn, tmp_path):
    folder, _, cohort = istn
    table = newcomers(cohort, tmp_path, ("site1", "site1", "site2"))
    (tmp_path / "1.nii.gz").write_bytes(b"no image")
    arguments = [f"--workdir={folder}", f"--participants={table}", f"--output={tmp_path / 'out'}"]
    assert main(arguments) == 2 and not (tmp_path / "out" / "written.tsv").exists()
    assert main([*arguments, "--on_bad_volume=skip"]) == 0
    lines = (tmp_path / "out" / "written.tsv").read_text().splitlines()
    overlap = np.round(cohort.volumes.mask_overlap, 4)
    assert lines[1:] == [f"new0\tsite1\t{overlap[0]}", f"new2\tsite2\t{overlap[2]}"]
    (line,) = (tmp_path / "out" / "left_out.tsv").read_text().splitlines()[1:]
    assert line.startswith("new1\t") and "1.nii.gz" in line
