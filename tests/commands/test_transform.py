"""A run's harmonised volumes, and the run applied to participants it never saw."""

import dataclasses
import json
import pathlib
import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest

from eqpool.commands.new_scans import check_output, transform
from eqpool.commands.transform import main
from eqpool.config import DataConfig, OutputConfig
from eqpool.data.load import load_cohort
from eqpool.data.volumes.read import VERSION, prepare_volume
from eqpool.engine.selected import selected_variables
from eqpool.errors import InputError
from eqpool.estimator import EquivariantPooling
from eqpool.methods.base import load_trained
from eqpool.methods.facts import ModelFacts
from eqpool.methods.harmonised_volumes import harmonise_cohort
from eqpool.methods.networks import PoolingNetworks, pooling_stages
from eqpool.objectives.stage_one import make_stage_one
from eqpool.storage.run_folder import RunFolder
from tests.common_scale import changed, common_scale, rescaled, tissue_of
from tests.conftest import tiny_config, train_quickly


@pytest.fixture(scope="module")
def cohort(trained_volumes):
    return load_cohort(tiny_config(trained_volumes.parent).data, trained_volumes.parent / "cache", progress=False)


@pytest.fixture
def newcomers(cohort, tmp_path) -> pathlib.Path:
    """Three of the cohort's scans as another study's: no target, no covariate, a scanner nobody knows."""
    lines = ["participant_id\tpath\tsite"]
    for number, row in enumerate((0, 7, 16)):
        (tmp_path / f"{number}.nii.gz").write_bytes(pathlib.Path(cohort.volumes.image_path[row]).read_bytes())
        lines.append(f"new{number}\t{number}.nii.gz\t{'Toshiba' if number else 'site1'}")
    (tmp_path / "participants.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "participants.tsv"


def test_a_run_leaves_a_harmonised_volume_for_every_input(trained_volumes, cohort):
    output = trained_volumes / "derivatives" / "eqpool"
    assert "SIMULATED" in json.loads((output / "dataset_description.json").read_text())["Name"]
    trained = load_trained(RunFolder(trained_volumes))
    for row in (0, 11):
        name = cohort.participant_id[row]
        written = nibabel.load(output / name / "anat" / f"{name}_desc-harmonized_T1w.nii.gz")
        source = nibabel.load(cohort.volumes.image_path[row])
        sidecar = output / name / "anat" / f"{name}_desc-harmonized_T1w.json"
        assert json.loads(sidecar.read_text())["Sources"] == [f"{name}/anat/{name}_T1w.nii.gz"]
        np.testing.assert_array_equal(written.affine, source.affine)
        encoded = trained.encode(cohort.inputs[row][None])
        change = trained.decode(encoded["pooled_latent"])[0] - trained.decode(encoded["latent"])[0]
        values, mask, scale = source.get_fdata(), cohort.volumes.grid.mask, common_scale(cohort)
        expected = rescaled(changed(values, mask, change), mask, scale)
        np.testing.assert_allclose(written.get_fdata(), np.maximum(expected, 0), rtol=1e-3, atol=1e-2 * scale[1])
    assert len(list(output.glob("sub-*/anat/*_desc-harmonized_T1w.nii.gz"))) == len(cohort.site)


def test_held_out_volumes_of_no_known_site_are_measured_and_not_drawn(trained_volumes, cohort, tmp_path):
    unknown = np.where(cohort.split == "test", -1, cohort.site).astype(cohort.site.dtype)
    blind = dataclasses.replace(cohort, site=unknown)
    found = harmonise_cohort(load_trained(RunFolder(trained_volumes)), blind, RunFolder(tmp_path), "none")
    assert found["ssim_change"] > 0 and not (tmp_path / "images").exists()


def test_results_tell_how_like_the_input_both_forms_are(trained_volumes):
    metrics = json.loads((trained_volumes / "results.json").read_text())["metrics"]
    for form in ("change", "decoded"):
        for measure in ("psnr", "ssim", "recovery_error"):
            low, high = metrics[f"{measure}_{form}_interval"]
            assert low <= metrics[f"{measure}_{form}"] <= high
    assert metrics["recovery_error_input"] > 0
    assert metrics["ssim_change"] > metrics["ssim_decoded"]


def test_the_same_scans_get_the_same_latents_without_site_age_or_target(trained_volumes, cohort, newcomers, tmp_path):
    said: list[str] = []
    transform(trained_volumes, newcomers, tmp_path / "out", say=said.append)
    made = pd.read_csv(tmp_path / "out" / "embeddings.tsv", sep="\t")
    trained = pd.read_csv(trained_volumes / "embeddings.tsv", sep="\t")
    assert list(made["participant_id"]) == ["new0", "new1", "new2"]
    assert set(made["predicted_dx"]) <= {"AD", "Control"}
    pooled = pd.read_csv(trained_volumes / "pooled.tsv", sep="\t")
    assert made["mask_overlap"].tolist() == pooled["mask_overlap"].iloc[[0, 7, 16]].tolist()
    for prefix in ("l_", "phi_"):
        columns = [name for name in trained if name.startswith(prefix)]
        np.testing.assert_allclose(made[columns], trained[columns].iloc[[0, 7, 16]], rtol=1e-4, atol=1e-5)
    assert len(said) == 1 and "Toshiba: not among those trained on (site1, site2, site3); its 2 rows" in said[0]
    for number, row in enumerate((0, 7, 16)):
        name = cohort.participant_id[row]
        theirs = trained_volumes / f"derivatives/eqpool/{name}/anat/{name}_desc-harmonized_T1w.nii.gz"
        ours = tmp_path / f"out/derivatives/eqpool/sub-new{number}/anat/sub-new{number}_desc-harmonized_T1w.nii.gz"
        np.testing.assert_allclose(nibabel.load(ours).get_fdata(), nibabel.load(theirs).get_fdata(), atol=0.5)


@pytest.mark.parametrize(("recorded", "expected"), [(3, "version 3"), (None, "an earlier version")])
def test_a_run_on_volumes_of_an_older_preparation_is_not_applied(
    trained_volumes, newcomers, tmp_path, recorded, expected
):
    old = tmp_path / "old"
    shutil.copytree(trained_volumes, old)
    model = json.loads((old / "model.json").read_text())
    assert model.pop("preparation") == VERSION
    (old / "model.json").write_text(json.dumps(model | ({} if recorded is None else {"preparation": recorded})))
    with pytest.raises(InputError, match=f"volumes prepared by {expected} of the preparation.*train the run"):
        transform(old, newcomers, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_elsewhere_are_read_only_where_that_is_allowed(trained_volumes, newcomers, tmp_path):
    listed = tmp_path / "elsewhere" / "participants.tsv"
    listed.parent.mkdir()
    table = pd.read_csv(newcomers, sep="\t")
    table.assign(path=[str(newcomers.parent / path) for path in table.path]).to_csv(listed, sep="\t", index=False)
    arguments = [f"--workdir={trained_volumes}", f"--participants={listed}", f"--output={tmp_path / 'out'}"]
    assert main(arguments) == 2
    assert main([*arguments, "--outside_root=allow"]) == 0
    written = pd.read_csv(tmp_path / "out" / "embeddings.tsv", sep="\t")
    assert list(written.participant_id) == ["new0", "new1", "new2"]


def test_a_scan_keeps_the_run_of_its_source(trained_volumes, newcomers, tmp_path):
    """The table lists run 2 first; each output has the number, and its sidecar the path, of what it was made from."""
    lines = ["participant_id\tpath"]
    (tmp_path / "scans").mkdir()
    for number in (2, 1):
        path = tmp_path / "scans" / f"sub-x_run-{number}_T1w.nii.gz"
        path.write_bytes((tmp_path / f"{number}.nii.gz").read_bytes())
        lines.append(f"sub-x\tscans/{path.name}")
    newcomers.write_text("\n".join(lines) + "\n")
    assert main([f"--workdir={trained_volumes}", f"--participants={newcomers}", f"--output={tmp_path / 'out'}"]) == 0
    anat = tmp_path / "out" / "derivatives" / "eqpool" / "sub-x" / "anat"
    for number in (1, 2):
        stem = f"sub-x_run-{number}_desc-harmonized_T1w"
        assert json.loads((anat / f"{stem}.json").read_text())["Sources"] == [f"scans/sub-x_run-{number}_T1w.nii.gz"]
        written, both = nibabel.load(anat / f"{stem}.nii.gz").get_fdata(), []
        for source in (1, 2):
            both.append(np.abs(written - nibabel.load(tmp_path / f"{source}.nii.gz").get_fdata()).mean())
        assert np.argmin(both) == number - 1


def test_the_decode_itself_by_request(trained_volumes, newcomers, tmp_path, cohort):
    arguments = [f"--workdir={trained_volumes}", f"--participants={newcomers}", f"--output={tmp_path / 'out'}"]
    assert main([*arguments, "--harmonised=decoded"]) == 0
    trained = load_trained(RunFolder(trained_volumes))
    decoded = trained.decode(trained.encode(cohort.inputs[0][None])["pooled_latent"])[0]
    path = tmp_path / "out/derivatives/eqpool/sub-new0/anat/sub-new0_desc-harmonized_T1w.nii.gz"
    values, source = nibabel.load(path).get_fdata(), nibabel.load(cohort.volumes.image_path[0]).get_fdata()
    assert main([*arguments, "--harmonised=decoded", "--scale=as_scanned"]) == 0
    as_scanned = nibabel.load(path).get_fdata()
    mask = cohort.volumes.grid.mask
    mean, deviation = tissue_of(source, mask)
    expected = np.where(mask, mean + deviation * decoded, 0)
    np.testing.assert_allclose(as_scanned, expected, rtol=1e-3, atol=1e-2 * deviation)
    scale = common_scale(cohort)
    np.testing.assert_allclose(values, rescaled(expected, mask, scale), rtol=1e-3, atol=2e-2 * scale[1])
    assert main([*arguments, "--harmonised=none"]) == 0


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: (folder / "1.nii.gz").unlink(), "participants.tsv, line 3 (new1): "),
        (lambda folder: (folder / "2.nii.gz").write_bytes(b"no image"), "participants.tsv, line 4 (new2): "),
        (lambda folder: (folder / "participants.tsv").write_text("name\nx\n"), "no column participant_id"),
        (lambda folder: (folder / "participants.tsv").unlink(), "participants.tsv: no such file"),
    ],
)
def test_bad_input_is_one_line(spoil, expected, trained_volumes, newcomers, tmp_path, capsys):
    spoil(newcomers.parent)
    arguments = [f"--workdir={trained_volumes}", f"--participants={newcomers}", f"--output={tmp_path / 'out'}"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1 and error.startswith("eqpool: ")
    assert not (tmp_path / "out" / "embeddings.tsv").exists()


def test_a_folder_that_is_no_run(tmp_path, newcomers, capsys):
    assert main([f"--workdir={tmp_path / 'none'}", f"--participants={newcomers}", f"--output={tmp_path}"]) == 2
    assert "config.json" in capsys.readouterr().err


def test_a_bad_volume_is_left_out_by_request_and_listed(trained_volumes, newcomers, tmp_path, capsys):
    arguments = [f"--workdir={trained_volumes}", f"--participants={newcomers}", f"--output={tmp_path / 'out'}"]
    assert main(arguments) == 0
    whole = pd.read_csv(tmp_path / "out" / "embeddings.tsv", sep="\t")
    assert (tmp_path / "out" / "left_out.tsv").read_text() == "participant_id\treason\n"
    (newcomers.parent / "1.nii.gz").write_bytes(b"no image")
    assert main(arguments) == 2  # the run's own setting
    capsys.readouterr()
    assert main([*arguments, "--on_bad_volume=skip"]) == 0
    assert "1 of 3 volumes left out: " in capsys.readouterr().out
    made = pd.read_csv(tmp_path / "out" / "embeddings.tsv", sep="\t")
    pd.testing.assert_frame_equal(made, whole.drop(index=1).reset_index(drop=True))
    left_out = pd.read_csv(tmp_path / "out" / "left_out.tsv", sep="\t")
    assert list(left_out["participant_id"]) == ["new1"] and "1.nii.gz: not a readable image" in left_out["reason"][0]


@pytest.mark.parametrize(("align", "facts"), [("affine", {}), ("auto", {"is_aligned": True})])
def test_what_registration_found_is_kept_in_the_cache_of_the_run(
    trained_volumes, newcomers, tmp_path, monkeypatch, align, facts
):
    found: list[object] = []
    monkeypatch.setattr(
        "eqpool.data.volumes.alignment.align_to_template", lambda image: found.append(image) or np.eye(4)
    )
    run = tmp_path / "run"
    shutil.copytree(trained_volumes, run, ignore=shutil.ignore_patterns("derivatives"))
    config = json.loads((run / "config.json").read_text()) | {"cache_dir": str(tmp_path / "cache")}
    (run / "config.json").write_text(json.dumps(config | {"data": config["data"] | {"align": align}}))
    (run / "model.json").write_text(json.dumps(json.loads((run / "model.json").read_text()) | facts))
    for output in ("first", "second"):
        transform(run, newcomers, tmp_path / output, harmonised="none")
        assert len(found) == 3
    assert len(list((tmp_path / "cache" / "volumes" / "alignments").glob("*.json"))) == 3
    monkeypatch.setattr("eqpool.commands.new_scans.os.access", lambda *_: False)  # as where the run is another user's
    transform(run, newcomers, tmp_path / "third", harmonised="none")
    assert len(found) == 6


def contents(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("", "a work directory (config.json is there), expected another folder"),
        ("figures/..", "a work directory"),
        ("derivatives", "the run's own; expected another folder"),
        ("derivatives/eqpool/new", "the run's own"),
    ],
)
def test_a_run_is_not_written_over(place, expected, trained_volumes, newcomers, capsys):
    before = contents(trained_volumes)
    arguments = [f"--workdir={trained_volumes}", f"--participants={newcomers}"]
    assert main([*arguments, f"--output={trained_volumes / place}"]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert contents(trained_volumes) == before


@pytest.mark.parametrize("name", ["config.json", "model.json", "results.json"])
def test_another_run_is_not_written_over_either(name, trained_volumes, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=f"a work directory \\({name} is there\\)"):
        check_output(RunFolder(trained_volumes), tmp_path)
    check_output(
        RunFolder(trained_volumes), trained_volumes / "new"
    )  # a folder of its own, though in the work directory


@pytest.fixture(scope="module")
def trained_table(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("table")
    random = np.random.default_rng(0)
    lines = ["participant_id\tsite\tage\tdx\tthick_a\tthick_b\tscanner_mode"]
    for row in range(60):
        age, site = random.uniform(20, 80), row % 2
        thick = 3 - 0.01 * age + 0.2 * site + 0.1 * random.normal(size=2)
        values = "\t".join(f"{value:.4f}" for value in thick)
        lines.append(f"p{row}\t{'AB'[site]}\t{age:.1f}\t{'xy'[row // 2 % 2]}\t{values}\t{'uv'[row // 4 % 2]}")
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")
    config = tiny_config(folder)
    data = DataConfig(participants=str(folder / "participants.tsv"), features="thick_*,scanner_mode")
    train_quickly(dataclasses.replace(config, data=data), folder / "run")
    return folder


def test_tables_come_back_in_their_own_units(trained_table, tmp_path, capsys):
    table = pd.read_csv(trained_table / "participants.tsv", sep="\t").iloc[:5].drop(columns=["site", "age", "dx"])
    table["thick_a"] = table["thick_a"].astype(object)
    table.loc[2, "thick_a"] = "n/a"
    table.loc[[0, 2], "scanner_mode"] = "n/a"
    table.to_csv(tmp_path / "new.tsv", sep="\t", index=False)
    arguments = [f"--workdir={trained_table / 'run'}", f"--participants={tmp_path / 'new.tsv'}"]
    assert main([*arguments, f"--output={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "no column site: not needed" in said
    assert "thick_a: missing in 1 of 5 rows, where the training rows' mean is taken" in said
    assert "scanner_mode: missing in 2 of 5 rows, which are of no category" in said
    closing = said[said.index("written:") :].splitlines()[1:]
    assert [line.split()[0] for line in closing] == [
        str(tmp_path / "out" / name) for name in ("harmonised.tsv", "embeddings.tsv")
    ]
    made = pd.read_csv(tmp_path / "out" / "harmonised.tsv", sep="\t")
    assert list(made) == ["participant_id", "thick_a", "thick_b", "scanner_mode"]
    assert list(made["scanner_mode"].fillna("n/a")) == list(table["scanner_mode"]) and np.isnan(made["thick_a"][2])

    trained = load_trained(RunFolder(trained_table / "run"))
    encoded = trained.facts.features.apply(table.assign(thick_a=pd.to_numeric(table["thick_a"], errors="coerce")))
    outputs = trained.encode(encoded)
    change = trained.decode(outputs["pooled_latent"]) - trained.decode(outputs["latent"])
    training = pd.read_csv(trained_table / "participants.tsv", sep="\t").set_index("participant_id")
    embedded = pd.read_csv(trained_table / "run" / "embeddings.tsv", sep="\t").set_index("participant_id")
    rows = training.loc[embedded.index[embedded["split"] == "train"], "thick_b"]
    expected = table["thick_b"] + rows.std(ddof=0) * change[:, trained.facts.features.input_names.index("thick_b")]
    np.testing.assert_allclose(made["thick_b"], expected, rtol=1e-5)
    columns = [name for name in embedded if name.startswith("phi_")]
    ours = pd.read_csv(tmp_path / "out" / "embeddings.tsv", sep="\t")
    np.testing.assert_allclose(ours[columns].iloc[3], embedded.loc["p3", columns].astype(float), rtol=1e-4, atol=1e-5)


def test_a_category_that_no_training_row_has_is_refused(trained_table, tmp_path, capsys):
    table = pd.read_csv(trained_table / "participants.tsv", sep="\t").iloc[:5]
    table.loc[[0, 2], "scanner_mode"] = "w"
    table.to_csv(tmp_path / "new.tsv", sep="\t", index=False)
    arguments = [f"--workdir={trained_table / 'run'}", f"--participants={tmp_path / 'new.tsv'}"]
    assert main([*arguments, f"--output={tmp_path / 'out'}"]) == 2
    expected = 'column scanner_mode: "w" in 2 rows (p0, p2), expected one of u, v as in training'
    assert capsys.readouterr().err == f"eqpool: {expected}\n" and not (tmp_path / "out").exists()


def as_estimator(folder: pathlib.Path) -> EquivariantPooling:
    """The networks and the calibration of a run on a table, in an estimator."""
    run = RunFolder(folder)
    config, facts, trained = run.read_config(), ModelFacts.read(run), load_trained(run)
    stages = pooling_stages(config, facts.shape)
    variables = (selected_variables(stage, run.checkpoints) for stage in stages)
    estimator = EquivariantPooling()
    estimator.pooling_ = PoolingNetworks(config, facts.shape, *variables)
    estimator.scaling_, estimator.calibration_ = facts.features.scaling, trained.calibration
    estimator.change_scale_ = trained.change_scale
    estimator.sites_, estimator._columns = np.array(facts.site_names), facts.features.input_names
    names = np.array(facts.features.input_names, object)
    estimator.n_features_in_, estimator.feature_names_in_ = facts.input_shape[0], names
    return estimator


@pytest.mark.parametrize("calibration", ["none", "covariance"])
def test_the_estimator_harmonises_as_the_command_does(tmp_path, calibration):
    """One model, one table, two doors: the same numbers, whether harmonise or python -m eqpool.transform wrote them."""
    random, lines = np.random.default_rng(0), ["participant_id\tsite\tage\tdx\ta\tb\tc\tzero"]
    for row in range(60):
        a, b, c = random.normal(size=3) * [1, 50, 0.01] + [row % 2, 1000, 0.5] + random.uniform(20, 80) / 30
        lines.append(f"p{row}\t{row % 2 + 1}.0\t{20 + row}\t{'xy'[row // 2 % 2]}\t{a:.4f}\t{b:.3f}\t{c:.5f}\t0")
    participants = tmp_path / "participants.tsv"
    participants.write_text("\n".join(lines) + "\n")
    data = DataConfig(participants=str(participants), features="a,b,c,zero", site_calibration=calibration)
    output = OutputConfig(change_scale="0.5")
    train_quickly(dataclasses.replace(tiny_config(tmp_path), data=data, output=output), tmp_path / "run")
    assert main([f"--workdir={tmp_path / 'run'}", f"--participants={participants}", f"--output={tmp_path / 'o'}"]) == 0
    written = pd.read_csv(tmp_path / "o" / "harmonised.tsv", sep="\t")
    table = pd.read_csv(participants, sep="\t")
    estimator = as_estimator(tmp_path / "run")
    ours = estimator.harmonise(table[list("abc") + ["zero"]], table["site"])  # sites as 1.0 and 2.0
    pd.testing.assert_frame_equal(written[list(ours)].astype(float), ours, rtol=1e-6, atol=1e-7)
    phi = pd.read_csv(tmp_path / "o" / "embeddings.tsv", sep="\t").filter(like="phi_").to_numpy()
    np.testing.assert_allclose(estimator.transform(table[list(ours)], table["site"]), phi, rtol=1e-5, atol=1e-6)
    assert (ours["zero"] == 0).all() and not np.allclose(ours["a"], table["a"], atol=1e-3)


def test_a_positive_feature_comes_back_positive_where_that_is_asked_for(trained_table, tmp_path, capsys):
    """Features near 0 of new rows, far below those of training, which the change would take below 0."""
    folder = trained_table / "run"
    table = pd.read_csv(trained_table / "participants.tsv", sep="\t").assign(
        thick_a=1e-6, thick_b=np.linspace(0, 9, 60)
    )
    table.to_csv(tmp_path / "new.tsv", sep="\t", index=False)
    arguments = [f"--workdir={folder}", f"--participants={tmp_path / 'new.tsv'}"]
    made = {}
    for keep in ("auto", "on"):
        assert main([*arguments, f"--output={tmp_path / keep}", f"--keep_sign={keep}"]) == 0
        made[keep] = pd.read_csv(tmp_path / keep / "harmonised.tsv", sep="\t")
    below = made["auto"]["thick_a"] < 0
    assert below.any()
    np.testing.assert_array_equal(made["on"]["thick_a"], made["auto"]["thick_a"].clip(lower=0))
    np.testing.assert_array_equal(made["on"]["thick_b"], made["auto"]["thick_b"])
    sidecar = json.loads((tmp_path / "on" / "harmonised.json").read_text())
    assert sidecar == {"keep_sign": True, "clipped": {"thick_a": int(below.sum())}}
    assert json.loads((tmp_path / "auto" / "harmonised.json").read_text()) == {"keep_sign": False, "clipped": {}}
    assert f"{below.sum()} harmonised values below 0 are set to 0" in capsys.readouterr().out


def test_a_run_of_before_is_read_by_todays_coding(trained_table, tmp_path, capsys):
    """Sites that were 1.0 and 2.0 are 1 and 2; where 1 and 1.0 were two sites the run is refused in one line."""
    shutil.copytree(trained_table / "run", tmp_path / "run")
    model = tmp_path / "run" / "model.json"
    stored = json.loads(model.read_text())
    for column in stored["features"]["columns"]:
        column.pop("constant", None), column.pop("nonnegative", None)
    model.write_text(json.dumps(stored | {"site_names": ["1.0", "2.0"]}))
    facts = ModelFacts.read(RunFolder(tmp_path / "run"))
    assert facts.site_names == ("1", "2") and not facts.features.scaling.constant.any()
    arguments = [f"--workdir={tmp_path / 'run'}", f"--participants={trained_table / 'participants.tsv'}"]
    assert main([*arguments, f"--output={tmp_path / 'out'}", "--keep_sign=on"]) == 2
    assert "keep_sign: the model is of an earlier version" in capsys.readouterr().err
    model.write_text(json.dumps(stored | {"site_names": ["1", "1.0"]}))
    with pytest.raises(InputError, match="site_names: 1 and 1.0 are one label, 1, now; train the model again"):
        ModelFacts.read(RunFolder(tmp_path / "run"))


def test_a_calibrated_table_is_calibrated_again_for_new_rows(trained_table, tmp_path):
    """Harmonised features of both sites meet, and known rows get the run's own latents."""
    config = RunFolder(trained_table / "run").read_config()
    data = dataclasses.replace(config.data, site_calibration="location")
    train_quickly(dataclasses.replace(config, data=data), tmp_path / "run")
    participants = trained_table / "participants.tsv"
    assert (
        main([f"--workdir={tmp_path / 'run'}", f"--participants={participants}", f"--output={tmp_path / 'out'}"]) == 0
    )
    columns = {
        name: pd.read_csv(tmp_path / name / "embeddings.tsv", sep="\t").filter(like="phi_") for name in ("run", "out")
    }
    np.testing.assert_allclose(columns["run"], columns["out"], rtol=1e-4, atol=1e-5)
    before, after = (pd.read_csv(path, sep="\t") for path in (participants, tmp_path / "out" / "harmonised.tsv"))
    even = before["site"] == "A"

    def gap(table):
        return abs(table["thick_a"][even].mean() - table["thick_a"][~even].mean())

    assert gap(after) < 0.6 * gap(before)


def test_a_table_has_no_volumes_to_leave_out(trained_table, tmp_path, capsys):
    arguments = [f"--workdir={trained_table / 'run'}", f"--participants={trained_table / 'participants.tsv'}"]
    assert main([*arguments, f"--output={tmp_path / 'out'}", "--on_bad_volume=skip"]) == 2
    assert "--on_bad_volume=skip: the run is on participants, not on volumes" in capsys.readouterr().err


def test_a_table_without_one_of_the_features_names_it(trained_table, tmp_path, capsys):
    (tmp_path / "new.tsv").write_text("participant_id\tthick_a\tscanner_mode\nx\t2.0\tu\n")
    arguments = [f"--workdir={trained_table / 'run'}", f"--participants={tmp_path / 'new.tsv'}"]
    assert main([*arguments, f"--output={tmp_path / 'out'}"]) == 2
    assert "new.tsv, line 1: no column thick_b (a feature of the run); did you mean thick_a?" in capsys.readouterr().err


def test_prepared_inputs_are_those_of_training(cohort):
    np.testing.assert_array_equal(
        prepare_volume(pathlib.Path(cohort.volumes.image_path[4]), cohort.volumes.grid)[0], cohort.inputs[4]
    )


def test_the_decoder_adds_to_the_mean_training_volume(trained_volumes, cohort):
    config, facts = RunFolder(trained_volumes).read_config(), load_trained(RunFolder(trained_volumes)).facts
    stage = make_stage_one(config, facts.shape)
    variables = selected_variables(stage, trained_volumes / "checkpoints")
    expected = np.mean([cohort.inputs[row].astype(np.float64) for row in cohort.rows("train")], axis=0)
    np.testing.assert_allclose(variables["constants"]["decoder"]["mean"], expected, rtol=1e-5, atol=1e-6)
