"""Maps of cross-fitted decodes: who decoded whom, what the files hold, and that a second call only reads."""

import dataclasses
import json
import pathlib
import shutil

import nibabel
import numpy as np
import pytest
import statsmodels.api as sm

from eqpool.commands.make_maps import (
    FORMS,
    _gain,
    check_contrast,
    count_degrees_of_freedom,
    describe_maps,
    first_scans,
    form_tiles,
    judged_voxels,
    make_maps,
    map_form,
)
from eqpool.commands.maps import main
from eqpool.config import to_dict
from eqpool.data.load import load_cohort
from eqpool.data.shape import DataShape
from eqpool.data.sources.simulated import effect_path
from eqpool.engine.selected import selected_variables
from eqpool.errors import InputError
from eqpool.evaluate.recovery import detection_gain, is_unaffected
from eqpool.methods.base import load_trained
from eqpool.methods.crossfit import Decodes, cross_fitted_decodes, deal_folds
from eqpool.objectives.stage_one import make_stage_one
from eqpool.report.brain_maps import FORM_TITLES, draw_share_maps, draw_t_maps
from eqpool.storage import files
from eqpool.storage.run_folder import RunFolder
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def mapped(trained_volumes, tmp_path_factory):
    """(folder, cohort, facts): maps by two folds, with the programs that the fixture's run compiled."""
    folder = tmp_path_factory.mktemp("mapped")
    config = tiny_config(trained_volumes.parent)
    files.write_json(folder / "config.json", to_dict(config))
    facts = make_maps(folder, folds=2)
    return folder, load_cohort(config.data, trained_volumes.parent / "cache", progress=False), facts


@pytest.fixture(scope="module")
def fold(mapped):
    """(N,) which fold's networks decoded each row, found from the decodes themselves."""
    folder, cohort, _ = mapped
    decodes = np.load(folder / "folds" / "2" / "decodes.npy", mmap_mode="r")
    mask = cohort.volumes.grid.mask
    fold = np.full(len(cohort.site), -1)
    for number in (0, 1):
        trained = load_trained(RunFolder(folder / "folds" / "2").fold(number))
        decoded = trained.decode(trained.encode(np.array(cohort.inputs))["latent"])[:, mask]
        fold[[np.allclose(own, kept, atol=1e-4) for own, kept in zip(decoded, decodes[1], strict=True)]] = number
    return fold


def test_every_volume_is_decoded_by_networks_that_never_saw_it(mapped, fold):
    folder, cohort, _ = mapped
    assert np.bincount(fold, minlength=2).tolist() == [9, 9]
    for number in (0, 1):
        part = folder / "folds" / "2" / f"fold-{number + 1}"
        config, facts = RunFolder(part).read_config(), load_trained(RunFolder(part)).facts
        stage = make_stage_one(config, DataShape(facts.input_shape, 1, 3, 2))
        mean = selected_variables(stage, part / "checkpoints")["constants"]["decoder"]["mean"]
        others = np.array([cohort.inputs[row] for row in np.flatnonzero(fold != number)]).reshape(9, -1)
        # The mean training volume is one of some of the other fold's rows alone.
        weights = np.linalg.lstsq(others.T.astype(float), np.asarray(mean, float).ravel(), rcond=None)[0]
        np.testing.assert_allclose(weights @ others, np.asarray(mean).ravel(), atol=1e-4)
        assert set(np.round(weights, 3)) == {0.0, round(1 / np.sum(weights > 0.01), 3)}
    for site in range(3):
        assert np.ptp(np.bincount(fold[cohort.site == site], minlength=2)) <= 1


@pytest.mark.parametrize("form", list(FORMS))
def test_the_files_hold_what_statsmodels_finds(mapped, fold, form):
    folder, cohort, facts = mapped
    decodes = np.load(folder / "folds" / "2" / "decodes.npy")
    values = np.tensordot(FORMS[form], decodes.astype(float), axes=1)
    age, ill = cohort.covariates[:, 0], (cohort.target == 0).astype(float)
    sites = (cohort.site[:, None] == [1, 2]).astype(float)
    t, share = (
        nibabel.load(folder / "maps" / f"{form}_{name}.nii.gz").get_fdata()[cohort.volumes.grid.mask]
        for name in ("t_AD-Control", "r2_site")
    )
    for voxel in (0, values.shape[1] // 2, values.shape[1] - 1):
        if np.ptp(values[:, voxel]) < 1e-6:
            continue
        model = sm.OLS(values[:, voxel], sm.add_constant(np.column_stack([ill, age, fold]))).fit()
        np.testing.assert_allclose(t[voxel], model.tvalues[1], rtol=1e-4)
        reduced = sm.OLS(values[:, voxel], sm.add_constant(np.column_stack([ill, age, fold]))).fit()
        full = sm.OLS(values[:, voxel], sm.add_constant(np.column_stack([ill, age, fold, sites]))).fit()
        np.testing.assert_allclose(share[voxel], 1 - full.ssr / reduced.ssr, rtol=1e-3, atol=1e-6)
    assert facts["forms"][form]["degrees_of_freedom"] == 18 - 4


def test_the_truth_is_measured_against(mapped):
    folder, cohort, facts = mapped
    assert json.loads(json.dumps(facts)) == json.loads((folder / "maps" / "maps.json").read_text())
    truth = nibabel.load(effect_path(pathlib.Path(cohort.volumes.image_path[0]), "disease_mask")).get_fdata()
    for values in facts["forms"].values():
        assert (
            values["truth_voxels"] == int((truth[cohort.volumes.grid.mask] > 0).sum())
            and values["unaffected_voxels"] > 0
        )
        assert 0 <= values["sensitivity_at_matched_rate"] <= 1 and values["recovery_error"] > 0
    assert "SIMULATED" in describe_maps(facts)


def test_the_gain_is_that_of_the_judged_voxels_at_once(mapped, monkeypatch):
    """However the memory map is cut into tiles."""
    folder, cohort, facts = mapped
    decodes = Decodes(np.load(folder / "folds" / "2" / "decodes.npy"), deal_folds(tiny_config(folder), cohort, 2))
    effect, mask = (
        np.abs(
            nibabel.load(effect_path(pathlib.Path(cohort.volumes.image_path[0]), name)).get_fdata()[
                cohort.volumes.grid.mask
            ]
        )
        for name in ("disease_effect", "disease_mask")
    )
    judged = (mask > 0.5) | is_unaffected(effect)
    assert 0 < judged.sum() < len(judged)
    rows = first_scans(cohort, np.flatnonzero(cohort.target_known))
    nuisance = np.column_stack([cohort.covariates[rows], decodes.fold[rows]]).astype(float)
    whole = {
        form: np.tensordot(FORMS[form], decodes.values[:, rows][:, :, judged].astype(float), axes=1) for form in FORMS
    }
    expected = detection_gain(
        lambda: [whole["before"]], lambda: [whole["after"]], (cohort.target[rows] == 0).astype(float), nuisance,
        mask[judged] > 0.5, cohort.participant_id[rows],
    )  # fmt: skip
    monkeypatch.setattr("eqpool.commands.make_maps.tile_width", lambda count: 100)
    for found in (facts, _gain(cohort, decodes, judged_voxels(cohort))):
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-12)


def test_the_input_form_does_not_depend_on_the_networks(mapped):
    _, cohort, _ = mapped
    folder = mapped[0]
    decodes = np.load(folder / "folds" / "2" / "decodes.npy")
    for row in (0, 9, 17):
        np.testing.assert_array_equal(decodes[0, row], cohort.inputs[row][cohort.volumes.grid.mask])


def test_what_the_others_explain_has_no_map_and_is_named(mapped, tmp_path):
    """Targets of two sites alone are known, and of one of them no healthy one: class and site are one thing."""
    folder, cohort, _ = mapped
    decodes = Decodes(np.load(folder / "folds" / "2" / "decodes.npy"), deal_folds(tiny_config(folder), cohort, 2))
    known = ((cohort.site == 0) & (cohort.target == 0)) | ((cohort.site == 1) & (cohort.target == 1))
    blind = dataclasses.replace(cohort, target=np.where(known, cohort.target, -1).astype(np.int32))
    facts = map_form(blind, decodes, "before", tmp_path)
    assert facts["not_estimable"] == ["site", "dx"] and "r2_site_mean" not in facts
    assert sorted(path.name for path in tmp_path.glob("*_r2_*")) == ["before_r2_age.nii.gz"]
    said = describe_maps(
        {"forms": {"before": facts}}
        | {name: mapped[2][name] for name in ("contrast", "simulated", "folds", "threshold")}
    )
    assert "site, dx: determined by the others" in said


def test_a_target_that_age_tells_is_refused_before_anything_is_trained(mapped):
    _, cohort, _ = mapped
    old = (cohort.covariates[:, 0] > np.median(cohort.covariates[:, 0])).astype(np.int32)
    by_age = dataclasses.replace(cohort, target=old, covariates=old[:, None].astype(float))
    fold = np.arange(len(old)) % 2
    with pytest.raises(InputError, match="dx: constant, or determined by age, in the 18 people"):
        check_contrast(by_age, fold)
    with pytest.raises(InputError, match="constant"):
        check_contrast(dataclasses.replace(cohort, target=np.zeros_like(cohort.target)), fold)
    check_contrast(cohort, fold)


def test_the_degrees_of_freedom_are_known_before_anything_is_trained(mapped, fold):
    _, cohort, facts = mapped
    assert {form["degrees_of_freedom"] for form in facts["forms"].values()} == {count_degrees_of_freedom(cohort, fold)}


def test_maps_of_few_people_are_warned_of_before_they_are_made(mapped, tmp_path, capsys):
    copy_of_folds(mapped, tmp_path)
    shutil.copy(mapped[0] / "config.json", tmp_path)
    RunFolder(tmp_path / "folds" / "2").write_data_hash("0" * 64)
    with pytest.raises(InputError, match="2: made with other data"):
        make_maps(tmp_path, folds=2)
    assert "WARNING: the maps will mean little: with 14 degrees of freedom a voxel has" in capsys.readouterr().out


def trained_files(folder: pathlib.Path) -> dict[pathlib.Path, int]:
    """What training writes below a folder, and when it was written."""
    logs = [*folder.rglob("metrics.jsonl"), *folder.rglob("decodes.npy")]
    return {path: path.stat().st_mtime_ns for path in [*logs, *folder.rglob("checkpoints/**/*")]}


def test_a_second_call_trains_nothing(mapped):
    folder, _, facts = mapped
    before = trained_files(folder / "folds")
    assert make_maps(folder, folds=2) == facts
    assert len(before) > 10 and trained_files(folder / "folds") == before


def test_a_report_that_cannot_be_written_is_one_line_too(mapped, monkeypatch, capsys, tmp_path):
    for name in ("config.json", "results.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr("eqpool.commands.make_maps.make_maps", lambda *_: mapped[2])

    def stop(_):
        raise InputError("report.html: cannot be written")

    monkeypatch.setattr("eqpool.report.page.write_report", stop)
    assert main([f"--workdir={tmp_path}"]) == 2
    said = capsys.readouterr()
    assert said.err == "eqpool: report.html: cannot be written\n" and said.out.startswith("AD-Control")


def test_a_person_with_several_visits_counts_once(mapped):
    _, cohort, facts = mapped
    visits = dataclasses.replace(cohort, participant_id=np.array(["b", "a", "b", "c", "a", "d"] + ["e"] * 100)[:18])
    assert first_scans(visits, np.array([0, 1, 2, 4, 5, 3, 7, 6])).tolist() == [0, 1, 5, 3, 7]
    assert facts["forms"]["before"]["rows"] == len(np.unique(cohort.participant_id[cohort.target_known]))


def test_decodes_of_other_data_are_not_taken(mapped):
    folder, cohort, _ = mapped
    older = dataclasses.replace(cohort, covariates=cohort.covariates + 1)
    with pytest.raises(InputError, match="2: made with other data; remove it"):
        cross_fitted_decodes(tiny_config(folder), older, RunFolder(folder / "folds" / "2"), 2)


def copy_of_folds(mapped, tmp_path) -> pathlib.Path:
    return shutil.copytree(mapped[0] / "folds" / "2", tmp_path / "folds" / "2")


@pytest.mark.parametrize("kept", ["everything", "decodes alone"])
def test_decodes_by_another_config_are_not_taken(kept, mapped, tmp_path):
    folder, config = copy_of_folds(mapped, tmp_path), tiny_config(mapped[0])
    if kept == "decodes alone":
        shutil.rmtree(folder / "fold-1")  # what the first fold would be trained anew for
        shutil.rmtree(folder / "fold-2" / "checkpoints")
        (folder / "fold-2" / "metrics.jsonl").unlink()
    before = trained_files(folder)
    other = dataclasses.replace(config, stage_two=dataclasses.replace(config.stage_two, epochs=3))
    with pytest.raises(InputError, match=r"was made with another config: config.stage_two.epochs \(2 there, 3 now\)$"):
        cross_fitted_decodes(other, mapped[1], RunFolder(folder), 2)
    assert trained_files(folder) == before  # refused before anything was trained


def test_decodes_that_are_gone_are_made_again(mapped, tmp_path):
    """From the folds' checkpoints, which are whole: not zeros, which maps would be made of."""
    folder = copy_of_folds(mapped, tmp_path)
    (folder / "decodes.npy").unlink()
    made = cross_fitted_decodes(tiny_config(mapped[0]), mapped[1], RunFolder(folder), 2)
    np.testing.assert_allclose(made.values, np.load(mapped[0] / "folds" / "2" / "decodes.npy"), rtol=1e-4, atol=1e-5)


def test_maps_are_of_the_data_that_the_run_was_of(mapped, tmp_path):
    files.write_json(tmp_path / "config.json", files.read_json(mapped[0] / "config.json"))
    files.write_json(tmp_path / "data.json", {"data_hash": "another"})
    with pytest.raises(InputError, match="was made with other data than there are now"):
        make_maps(tmp_path, folds=2)
    assert not (tmp_path / "folds").exists()


def test_the_figures_are_drawn(mapped, tmp_path):
    folder, _, facts = mapped
    thresholded = [sum(f[f"voxels_{name}"] > 0 for f in facts["forms"].values()) for name in ("fdr", "bonferroni")]
    drawn = [
        (draw_t_maps(RunFolder(folder), facts, "fdr"), thresholded[0]),
        (draw_t_maps(RunFolder(folder), facts, "bonferroni"), thresholded[1]),
    ]
    drawn += [(draw_share_maps(RunFolder(folder), facts, name, name), len(FORMS)) for name in ("site", "age", "dx")]
    for figure, overlaid in drawn:
        figure.savefig(tmp_path / "figure.png")
        texts = [text.get_text() for text in figure.texts]
        assert [text.split("\n")[0] for text in texts] == list(FORM_TITLES.values())
        slices = [axes for axes in figure.axes if axes.get_images()]
        assert len(slices) == 4 * 6
        assert sum(len(axes.get_images()) > 1 for axes in slices) == 6 * overlaid


@pytest.mark.parametrize(
    ("arguments", "change", "expected"),
    [
        (["--folds=1"], {}, "--folds=1: expected at least 2"),
        ([], {"method": "naive"}, 'config.method = "naive": expected "ours"'),
        ([], None, "config.json"),
    ],
)
def test_bad_input_is_one_line(arguments, change, expected, tmp_path, capsys):
    if change is not None:
        files.write_json(tmp_path / "config.json", to_dict(tiny_config(tmp_path)) | change)
    assert main([f"--workdir={tmp_path}", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_maps_after_pooling_are_of_what_is_handed_back():
    """Each fold's run scales its networks' change, and a single scale counts for all."""
    values, fold = np.random.default_rng(0).normal(size=(4, 6, 5)), np.array([0, 1, 0, 1, 0, 1])
    rows, scale = np.array([1, 2, 5]), np.array([0.0, 0.5])[fold]
    scaled = Decodes(values, fold, scale)
    expected = values[3] + scale[:, None] * (values[2] - values[1])
    np.testing.assert_allclose(np.hstack(list(form_tiles(scaled, "after", rows))), expected[rows])
    whole = np.hstack(list(form_tiles(Decodes(values, fold), "after", rows)))
    np.testing.assert_allclose(whole, (values[3] + values[2] - values[1])[rows])
    for form, part in (("before", 0), ("before_decoded", 1), ("after_decoded", 2)):
        np.testing.assert_allclose(np.hstack(list(form_tiles(scaled, form, rows))), values[part, rows])
