"""ComBat as a method: the run, the transform of new scans and rows, and what is refused."""

import dataclasses
import json
import pathlib

import nibabel
import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from eqpool.commands.new_scans import transform
from eqpool.commands.run import dry_run, run
from eqpool.config import DataConfig, EvaluateConfig, RunConfig, to_dict
from eqpool.config.check import from_config_dict
from eqpool.data.load import load_cohort
from eqpool.data.reference_view import reference_views
from eqpool.data.site_effects.combat import Combat
from eqpool.errors import InputError
from eqpool.evaluate.input_features import sub_grid
from eqpool.methods.combat import CombatMethod
from eqpool.methods.combat_fit import fit_combat, fit_combat_on
from eqpool.methods.harmonised_volumes import measure, summarise
from eqpool.report.page import write_report
from eqpool.storage.files import read_arrays
from eqpool.storage.run_folder import RunFolder
from tests.common_scale import common_scale, rescaled
from tests.conftest import tiny_config

ROWS, FEATURES = 60, ["thickness", "volume", "area"]


def write_table(path, rows=ROWS, extra_site="", seed=0):
    random = np.random.default_rng(seed)
    site = np.resize(["GE", "Siemens"], rows)
    age = random.uniform(50, 80, rows).round(1)
    values = random.normal(size=(rows, 3)) * [0.2, 90, 11] + [2.5, 4000, 120] + np.outer(age - 65, [-0.01, 8, 0])
    values = values + np.where(site == "Siemens", 1, 0)[:, None] * [0.4, -200, 9]
    table = pd.DataFrame(values, columns=FEATURES).assign(age=age, dx=np.resize(["CN", "CN", "AD"], rows), site=site)
    if extra_site:
        table.loc[:3, "site"] = extra_site
    table.insert(0, "participant_id", [f"sub-{row:03d}" for row in range(rows)])
    table.to_csv(path, sep="\t", index=False)
    return path


def config_of(folder, **data):
    data = {"features": ",".join(FEATURES), "target": "dx", **data}
    made = DataConfig(participants=str(write_table(folder / "participants.tsv")), **data)
    quick = EvaluateConfig(scorecard_permutations=0, bootstraps=20)
    return RunConfig(method="combat", cache_dir=str(folder / "cache"), data=made, evaluate=quick)


def read(path):
    return pd.read_csv(path, sep="\t")


def test_a_run_writes_the_table_that_combat_makes_of_its_training_rows(tmp_path):
    run(config_of(tmp_path), tmp_path / "run", quiet=True)
    given, made = read(tmp_path / "participants.tsv"), read(tmp_path / "run" / "harmonised.tsv")
    train = (read(tmp_path / "run" / "pooled.tsv")["split"] == "train").to_numpy()
    values, site, age = given[FEATURES].to_numpy(), given["site"].to_numpy(str), given[["age"]].to_numpy()
    ill = (given[["dx"]].to_numpy() == "AD").astype(float)
    combat = Combat.fit(values[train], site[train], age[train], ill[train])
    np.testing.assert_allclose(made[FEATURES], combat.apply(values, site), rtol=1e-6)
    assert made["participant_id"].tolist() == given["participant_id"].tolist()


def test_a_reference_and_controls_are_named_in_the_config(tmp_path):
    config = config_of(tmp_path, reference="GE", fit_on="dx:CN")
    run(config, tmp_path / "run", quiet=True)
    given, made = read(tmp_path / "participants.tsv"), read(tmp_path / "run" / "harmonised.tsv")
    at_reference = given["site"] == "GE"
    np.testing.assert_allclose(made.loc[at_reference, FEATURES], given.loc[at_reference, FEATURES], rtol=1e-6)
    rows = read(tmp_path / "run" / "pooled.tsv")
    controls = ((rows["split"] == "train") & (given["dx"] == "CN")).to_numpy()
    learnt = read_arrays(tmp_path / "run" / "combat.npz")["rows"]
    assert learnt.tolist() == [int((controls & (given["site"] == site)).sum()) for site in ("GE", "Siemens")]


def test_new_rows_are_harmonised_as_the_run_harmonised_its_own_and_unknown_sites_stay(tmp_path, capsys):
    run(config_of(tmp_path), tmp_path / "run", quiet=True)
    new = write_table(tmp_path / "new.tsv", extra_site="Toshiba")
    said = []
    transform(tmp_path / "run", new, tmp_path / "out", say=said.append)
    made, before = read(tmp_path / "out" / "harmonised.tsv"), read(tmp_path / "run" / "harmonised.tsv")
    np.testing.assert_allclose(made.loc[4:, FEATURES], before.loc[4:, FEATURES], rtol=1e-9)
    np.testing.assert_allclose(made.loc[:3, FEATURES], read(new).loc[:3, FEATURES], rtol=1e-9)
    assert "4 rows stay as they are: their site is not one of GE, Siemens" in said


def write_travellers(path, people=48, seed=0):
    """Four scans of each person, two at either scanner for one in three; Siemens adds 0.4, -200 and 9."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), 4)
    visit = np.tile(np.arange(4), people)
    at_siemens = np.where(person % 3 == 0, visit % 2, person % 2) == 1
    deviation = np.array([0.2, 90, 11])
    own, age = 3 * random.normal(size=(people, 3)), random.uniform(50, 80, people)
    values = [2.5, 4000, 120] + deviation * (own[person] + random.normal(size=(len(person), 3)))
    values = values + np.outer(at_siemens, [0.4, -200, 9])
    table = pd.DataFrame(values, columns=FEATURES).assign(
        age=(age[person] + visit).round(1),
        dx=np.array(["CN", "AD"])[person // 2 % 2],
        site=np.where(at_siemens, "Siemens", "GE"),
        scanner_side=np.array(["l", "r", "m"])[person % 3],
    )
    table.insert(0, "participant_id", [f"sub-{one:03d}" for one in person])
    table.insert(1, "session_id", [f"ses-{one}" for one in visit])
    table.to_csv(path, sep="\t", index=False)
    return table


def run_of_travellers(folder, **data):
    given = write_travellers(folder / "participants.tsv")
    data = {"features": ",".join(FEATURES), "target": "dx", **data}
    made = DataConfig(participants=str(folder / "participants.tsv"), **data)
    run(RunConfig(method="combat", cache_dir=str(folder / "cache"), data=made), folder / "run", quiet=True)
    return given, read(folder / "run" / "pooled.tsv")["split"].to_numpy(str)


def test_repeated_scans_of_a_participant_share_a_random_effect_and_a_split(tmp_path):
    given, split = run_of_travellers(tmp_path)
    assert (pd.Series(split).groupby(given["participant_id"]).nunique() == 1).all()
    train = split == "train"
    columns = given["site"].to_numpy(str), given[["age"]].to_numpy(), (given[["dx"]].to_numpy() == "CN").astype(float)
    learnt = (column[train] for column in columns)
    person = given["participant_id"].to_numpy(str)[train]
    combat = Combat.fit(given[FEATURES].to_numpy()[train], *learnt, subject=person)
    made = read(tmp_path / "run" / "harmonised.tsv")
    np.testing.assert_allclose(made[FEATURES], combat.apply(given[FEATURES], columns[0]), rtol=1e-5)
    assert combat.correlation.min() > 0.8
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"share a random effect: two of them correlate by {np.median(combat.correlation):.2f} (median)" in log


def test_people_at_two_scanners_bring_the_scanners_together(tmp_path):
    """The mean change of Siemens rows less that of GE rows against the planted offsets, beside unnamed people."""
    errors = []
    for seed in range(3):
        given = write_travellers(tmp_path / "participants.tsv", seed=seed)
        for name in ("people", "scans"):
            table = given.copy()
            if name == "scans":
                table["participant_id"] = [f"sub-{row}" for row in range(len(table))]
            table.assign(split="train").to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
            data = DataConfig(participants=str(tmp_path / "participants.tsv"), features=",".join(FEATURES))
            config = RunConfig(method="combat", data=data)
            cohort = load_cohort(config.data, tmp_path / "cache", progress=False)
            combat = fit_combat(cohort, config)
            offset = combat.deviation * (combat.location[1] - combat.location[0])
            deviations = [column.deviation for column in cohort.table.encoding.numbers]
            errors.append(np.abs(offset * deviations / [0.4, -200, 9] - 1).mean())
    people, scans = np.reshape(errors, (3, 2)).mean(axis=0)
    assert people < 0.25 and people < 0.6 * scans


def test_categories_stay_and_change_nothing_in_the_numbers(tmp_path):
    for name, features in (("with", "scanner_side"), ("without", "")):
        (tmp_path / name).mkdir()
        run_of_travellers(tmp_path / name, features=",".join([*FEATURES, features]).rstrip(","))
    one, other = (read(tmp_path / name / "run" / "harmonised.tsv") for name in ("with", "without"))
    pd.testing.assert_frame_equal(one[FEATURES], other[FEATURES])
    assert one["scanner_side"].tolist() == read(tmp_path / "with" / "participants.tsv")["scanner_side"].tolist()
    cards = [
        json.loads((tmp_path / name / "run" / "results.json").read_text())["scorecard"] for name in ("with", "without")
    ]
    assert [card["handed_back"] for card in cards] == ["combat", "combat"]


def test_the_rival_of_other_methods_is_the_combat_of_the_method(tmp_path):
    write_travellers(tmp_path / "participants.tsv")
    data = DataConfig(participants=str(tmp_path / "participants.tsv"), features=f"{','.join(FEATURES)},scanner_side")
    config = RunConfig(method="combat", data=data)
    cohort = load_cohort(config.data, tmp_path / "cache", progress=False)
    train = cohort.rows("train")
    one, other = fit_combat(cohort, config), fit_combat_on(cohort, config, train, cohort.table.encoded[train])
    for name, values in one.to_arrays().items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(other.to_arrays()[name], values, rtol=1e-8, atol=1e-10, err_msg=name)
    np.testing.assert_array_equal(one.deviation > 0, [True] * 3 + [False] * 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"reference": "Philips"}, 'config.data.reference = "Philips": expected a site of the training rows, GE, Siem'),
        ({"fit_on": "dx"}, 'config.data.fit_on = "dx": expected column:label, such as dx:CN'),
        ({"fit_on": "dx:MCI"}, 'config.data.fit_on = "dx:MCI": no row has MCI in dx, expected one of AD, CN'),
        ({"fit_on": "group:MCI"}, "no column group"),
    ],
)
def test_a_wrong_reference_or_choice_of_rows_is_refused(data, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run(config_of(tmp_path, **data), tmp_path / "run", quiet=True)


def test_a_calibration_before_combat_is_refused():
    with pytest.raises(
        InputError, match='config.data.site_calibration = "location": expected "none" for config.method'
    ):
        data = DataConfig(participants="x.tsv", site_calibration="location")
        from_config_dict(ConfigDict(to_dict(RunConfig(method="combat", data=data))))


def test_a_finished_run_has_a_report_and_a_dry_run_names_no_stage(tmp_path, capsys):
    config = config_of(tmp_path)
    run(config, tmp_path / "run", quiet=True)
    write_report(tmp_path / "run")
    assert "Method: combat" in (tmp_path / "run" / "report.html").read_text()
    dry_run(config, tmp_path / "other")
    assert "stage" in capsys.readouterr().out


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("combat")
    config = dataclasses.replace(tiny_config(folder), method="combat")
    run(config, folder / "run", quiet=True)
    return config, folder / "run", load_cohort(config.data, folder / "cache", progress=False)


def test_volumes_are_harmonised_voxel_by_voxel(volumes):
    config, folder, cohort = volumes
    mask, train = cohort.volumes.grid.mask, cohort.rows("train")
    values = np.stack([cohort.inputs[row][mask] for row in range(len(cohort.site))]).astype(np.float64)
    site = np.array(cohort.site_names)[cohort.site]
    ill = (cohort.target == 1).astype(float)[:, None]
    expected = Combat.fit(values[train], site[train], cohort.covariates[train], ill[train]).apply(values, site)
    streamed = fit_combat(cohort, config)
    np.testing.assert_allclose(streamed.apply(values, site), expected, rtol=1e-6, atol=1e-6)
    for row in (0, 11):
        name = cohort.participant_id[row]
        written = nibabel.load(folder / "derivatives" / "eqpool" / name / "anat" / f"{name}_desc-harmonized_T1w.nii.gz")
        source = nibabel.load(cohort.volumes.image_path[row]).get_fdata()
        inside = mask & (source != 0)
        made = source.copy()
        made[mask] += np.where(inside[mask], (expected - values)[row] * cohort.volumes.tissue_deviation[row], 0)
        wanted = np.maximum(rescaled(made, mask, common_scale(cohort)), 0)[inside]
        np.testing.assert_allclose(written.get_fdata()[inside], wanted, atol=1e-2 * source.max())
    metrics = json.loads(RunFolder(folder).results_file.read_text())["metrics"]
    assert metrics["recovery_error_change"] < metrics["recovery_error_input"] * 1.5
    assert not any("decoded" in name for name in metrics)


def test_volumes_with_a_reference_are_scored_against_its_view_of_the_same_people(volumes, tmp_path):
    config, _, cohort = volumes
    name = cohort.site_names[1]
    data = dataclasses.replace(config.data, reference=name)
    evaluate = dataclasses.replace(config.evaluate, scorecard=True, scorecard_permutations=0)
    config = dataclasses.replace(config, data=data, evaluate=evaluate)
    run(config, tmp_path / "run", quiet=True)
    card = json.loads((tmp_path / "run" / "results.json").read_text())["scorecard"]
    assert (card["reference"], card["truth_is"]) == (name, "as_reference")
    write_report(tmp_path / "run")
    rows = np.flatnonzero((cohort.split == "test") & (cohort.site != 1))
    kept = sub_grid(cohort.volumes.grid)
    views = np.stack([view[kept] for view in reference_views(cohort, config.data, rows, name)])
    raw = np.stack([cohort.inputs[row][kept] for row in rows])
    expected = np.sqrt(((raw - views) ** 2).mean(axis=1)).mean()
    np.testing.assert_allclose(card["versions"]["raw"]["error_to_truth"], expected, rtol=1e-5)


def test_volumes_that_come_back_as_they_came_have_no_psnr(volumes):
    config, folder, cohort = volumes
    row = int(cohort.rows("test")[0])
    model = CombatMethod().load(RunFolder(folder))
    changed = model.pooled(row, cohort.inputs[row], cohort.site_names[cohort.site[row]])
    same = model.pooled(row, cohort.inputs[row], "elsewhere")
    measured = [measure(cohort, one, None) for one in (changed, same)]
    both = summarise(measured, np.array(["a", "b"]), config.evaluate, 0)
    assert both["psnr_change"] == measured[0]["psnr_change"] and both["ssim_change"] > measured[0]["ssim_change"]
    alone = summarise(measured[1:], np.array(["b"]), config.evaluate, 0)
    assert alone["psnr_change"] is None and alone["psnr_change_interval"] is None


def test_volumes_of_a_participant_share_a_random_effect(volumes):
    config, _, cohort = volumes
    mask, train = cohort.volumes.grid.mask, cohort.rows("train")
    person = cohort.participant_id.copy()
    person[train] = np.resize(["p3", "p1", "p2", "p1", "p4"], len(train))
    own = np.random.default_rng(0).normal(size=(5, *cohort.inputs.shape[1:])).astype(np.float32)
    inputs = np.array(cohort.inputs)
    inputs[train] += np.stack([own[int(one[1])] for one in person[train]])
    known = dataclasses.replace(cohort, inputs=inputs, participant_id=person)
    values = inputs[train][:, mask].astype(np.float64)
    site, ill = np.array(cohort.site_names)[cohort.site], (cohort.target == 1).astype(float)[:, None]
    kept = site[train], cohort.covariates[train], ill[train]
    expected = Combat.fit(values, *kept, subject=person[train], shared_ratio=True)
    streamed = fit_combat(known, config)
    for name in ("location", "scale", "spread", "deviation", "correlation"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(expected, name), rtol=1e-5, atol=1e-6, err_msg=name)
    assert len(np.unique(streamed.correlation)) == 1 and streamed.correlation[0] > 0.3
    rival = fit_combat_on(known, config, train, values)
    np.testing.assert_allclose(rival.location, expected.location, rtol=1e-6, atol=1e-8)


def test_new_volumes_are_harmonised_as_the_run_harmonised_its_own(volumes, tmp_path):
    _, folder, cohort = volumes
    lines = ["participant_id\tpath\tsite"]
    for row in (0, 11):
        name, path = cohort.participant_id[row], cohort.volumes.image_path[row]
        lines.append(f"{name}\t{path}\t{cohort.site_names[cohort.site[row]]}")
    (tmp_path / "new.tsv").write_text("\n".join(lines) + "\n")
    transform(
        folder,
        tmp_path / "new.tsv",
        tmp_path / "out",
        root=pathlib.Path(cohort.volumes.image_root),
        outside_root="allow",
    )
    for path in (tmp_path / "out" / "derivatives").rglob("*.nii.gz"):
        name = path.name.split("_")[0]
        own = next((folder / "derivatives").rglob(f"{name}_*.nii.gz"))
        np.testing.assert_array_equal(nibabel.load(path).get_fdata(), nibabel.load(own).get_fdata())
