"""`eqpool harmonise`: one command for a table."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from eqpool import __version__
from eqpool.commands.program import main
from eqpool.data.site_effects.combat import Combat
from eqpool.estimator import SiteCalibrator

FLAGS = ["--keep=sex:categorical,age", "--features=*_thickness", "--permutations=0"]


def people(count: int = 120, seed: int = 0) -> pd.DataFrame:
    """A table of two scanners: age and sex act on six features, and one scanner adds 1 and scales by 1.5."""
    random = np.random.default_rng(seed)
    site = np.array(["GE", "Siemens"])[np.arange(count) % 2]
    age, sex = random.uniform(20, 80, count).round(1), np.array(["F", "M"])[random.integers(0, 2, count)]
    truth = 3 - age[:, None] / 60 + 0.2 * (sex == "M")[:, None] + 0.2 * random.normal(size=(count, 6))
    seen = np.where((site == "GE")[:, None], truth, 1.5 * truth + 1)
    frame = pd.DataFrame({"participant_id": [f"sub-{row:03d}" for row in range(count)], "site": site})
    for column in range(3):
        frame[f"area{column}_thickness"] = seen[:, column]
    frame = frame.assign(age=age, sex=sex, remark='it\'s, "quoted"')
    for column in range(3, 6):
        frame[f"area{column}_thickness"] = seen[:, column]
    return frame


@pytest.fixture
def table(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "people.tsv"
    frame = people()
    frame.loc[3, "area1_thickness"] = np.nan
    frame.to_csv(path, sep="\t", index=False, na_rep="n/a")
    return path


def between_sites(frame: pd.DataFrame) -> float:
    features = frame.filter(like="thickness")
    means = features.groupby(frame["site"]).mean()
    return float(np.abs(means.loc["GE"] - means.loc["Siemens"]).mean())


@pytest.mark.parametrize("method", ["calibrate", "combat"])
def test_the_features_are_replaced_and_all_else_is_kept(table, tmp_path, method, capsys):
    output = tmp_path / "out.tsv"
    assert main(["harmonise", str(table), *FLAGS, "-o", str(output), f"--method={method}"]) == 0
    before, after = (pd.read_csv(path, sep="\t") for path in (table, output))
    assert list(after.columns) == list(before.columns)
    others = [name for name in before if not name.endswith("_thickness")]
    pd.testing.assert_frame_equal(after[others], before[others])
    assert after["area1_thickness"].isna().to_numpy().nonzero()[0].tolist() == [3]  # missing stays missing
    assert between_sites(after) < 0.05 * between_sites(before)
    ages = [frame["area0_thickness"].corr(frame["age"]) for frame in (before, after)]
    assert ages[1] < -0.8 and ages[1] < ages[0]  # age acts as strongly as within a site
    card = json.loads((tmp_path / "out_scorecard.json").read_text())
    assert card["rows"] == {"train": 96, "test": 24} and set(card["versions"]) >= {"raw", "combat"}
    assert card["versions"]["raw"]["site"] > 0.9 > card["versions"][card["handed_back"]]["site"]
    page = (tmp_path / "out_scorecard.html").read_text()
    assert "site classification accuracy" in page and "24 held-out rows" in page and "Do not probe" in page
    told = capsys.readouterr().out
    assert str(output) in told and "What is handed back is better than the raw input" in told


def test_combat_is_combat_on_all_rows(table, tmp_path):
    output = tmp_path / "out.csv"
    assert main(["harmonise", str(table), *FLAGS, "-o", str(output), "--method=combat"]) == 0
    frame, after = pd.read_csv(table, sep="\t"), pd.read_csv(output)
    values = frame.filter(like="thickness")
    filled = values.fillna(values.mean()).to_numpy()
    kept = np.column_stack([frame["age"], frame["sex"] == "M"]).astype(float)
    site = frame["site"].to_numpy(str)
    expected = Combat.fit(filled, site, kept).apply(filled, site)
    known = values.notna().to_numpy()
    np.testing.assert_allclose(after.filter(like="thickness").to_numpy()[known], expected[known], rtol=1e-7)


def test_new_rows_and_a_saved_correction_give_what_the_estimator_gives(table, tmp_path):
    new, saved = tmp_path / "new.tsv", tmp_path / "correction.npz"
    people(20, seed=1).to_csv(new, sep="\t", index=False)
    paths = ["-o", str(tmp_path / "out.tsv"), f"--new={new}", f"--new_output={tmp_path / 'new_out.tsv'}"]
    assert main(["harmonise", str(table), *FLAGS, *paths, f"--save={saved}"]) == 0
    frame, after = (pd.read_csv(path, sep="\t") for path in (new, tmp_path / "new_out.tsv"))
    features = frame.filter(like="thickness")
    expected = SiteCalibrator.load(saved).transform(features, frame["site"])
    np.testing.assert_allclose(after.filter(like="thickness"), expected, rtol=1e-7)


def test_the_rows_of_the_reference_stay_as_they_are(table, tmp_path):
    output = tmp_path / "out.tsv"
    assert main(["harmonise", str(table), *FLAGS, "-o", str(output), "--reference=GE"]) == 0
    before, after = (pd.read_csv(path, sep="\t") for path in (table, output))
    rows = before["site"] == "GE"
    np.testing.assert_allclose(
        after[rows].filter(like="thickness"), before[rows].filter(like="thickness"), rtol=1e-8, equal_nan=True
    )
    assert between_sites(after) < 0.1 * between_sites(before)


def test_permutations_are_counted(table, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["harmonise", str(table), "--features=*", "-o", "out.tsv", "--permutations=-1"])
    assert '--permutations: "-1", expected a whole number of at least 0' in capsys.readouterr().err


def test_the_level_by_chance_is_measured_as_often_as_asked(table, tmp_path):
    for permutations in (0, 2):
        flags = [*FLAGS[:2], f"--permutations={permutations}", "-o", str(tmp_path / "out.tsv")]
        assert main(["harmonise", str(table), *flags]) == 0
        card = json.loads((tmp_path / "out_scorecard.json").read_text())
        assert card["permutations"] == permutations
        assert ("site_shuffled" in card["versions"]["eqpool"]) == bool(permutations)


def test_a_table_without_participants_and_without_covariates(table, tmp_path):
    plain = tmp_path / "plain.csv"
    pd.read_csv(table, sep="\t").drop(columns=["participant_id", "sex", "age"]).to_csv(plain, index=False)
    assert main(["harmonise", str(plain), "--features=*_thickness", FLAGS[2], "-o", str(tmp_path / "out.csv")]) == 0
    assert "age" not in json.loads((tmp_path / "out_scorecard.json").read_text())["covariate"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--site=scanner"], "no column scanner (--site)"),
        (["--keep=agge"], "no column agge (--keep); did you mean age?"),
        (["--features=*_volume"], "--features: no column of"),
        (["--features=site"], "--features: site is the site"),
        (["--features=remark"], "column remark (--features): holds text, expected numbers"),
        (["--reference=Philips"], "--reference=Philips: no such site, expected one of GE, Siemens"),
        (["--fit_on=sex:X"], '--fit_on = "sex:X": no row has X in sex'),
        (["--keep=age,age"], "--keep=age,age: age twice, expected each column once"),
        (["--person=nobody"], "no column nobody (--person)"),
        (["--person=remark"], "no site has two people, so that none can be held out for the scores"),
        (["--features=,"], '--features=",": empty, expected columns or patterns'),
        (
            ["--fit_on=site:GE", "--reference=Siemens"],
            "--reference=Siemens: 0 people of it to learn from, expected some",
        ),
        (["--keep=sex"], "write sex:categorical in --keep for categories"),
        (["--keep=age,site:categorical"], "--keep=age,site:categorical: site named by --site too, expected each"),
        (["--keep=age", "--target=age"], "--target=age: age named by --keep too, expected each column once"),
        (["--new=people.tsv"], "--new and --new_output: one without the other"),
        (["--output=people.tsv"], "an input, which is never overwritten"),
        (["--output=out.xlsx"], "expected a name that ends in .tsv or .csv"),
        (["--output=nowhere/out.tsv"], "no such folder"),
    ],
)
def test_bad_flags_are_one_line(table, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    names = {flag.split("=")[0] for flag in flags}
    rest = [flag for flag in ["--features=*_thickness", "--output=out.tsv"] if flag.split("=")[0] not in names]
    before = table.read_bytes()
    assert main(["harmonise", table.name, *rest, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert table.read_bytes() == before and not (tmp_path / "out.tsv").exists()


def test_repeated_scans_and_unknown_sites_go_through_combat(table, tmp_path, capsys):
    frame = pd.read_csv(table, sep="\t")
    frame["participant_id"] = [f"sub-{row // 2:03d}" for row in range(len(frame))]  # at both sites
    frame.loc[7, "site"] = np.nan
    frame.to_csv(table, sep="\t", index=False, na_rep="n/a")
    output = tmp_path / "out.tsv"
    assert main(["harmonise", str(table), *FLAGS, "-o", str(output), "--method=combat"]) == 0
    after = pd.read_csv(output, sep="\t")
    assert between_sites(after) < 0.1 * between_sites(frame)
    features = [name for name in frame if name.endswith("_thickness")]
    np.testing.assert_array_equal(after.loc[7, features].to_numpy(float), frame.loc[7, features].to_numpy(float))
    assert "warning: 1 row stays as it is: its site is not one of GE, Siemens" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["calibrate", "combat"])
def test_a_design_that_is_not_identifiable_is_refused_by_every_method(table, tmp_path, method, capsys):
    frame = pd.read_csv(table, sep="\t")
    frame.assign(dx=np.where(frame["site"] == "GE", "AD", "CN")).to_csv(table, sep="\t", index=False, na_rep="n/a")
    flags = [*FLAGS, "--target=dx", f"--method={method}", "-o", str(tmp_path / "out.tsv")]
    assert main(["harmonise", str(table), *flags]) == 2
    error = capsys.readouterr().err
    assert "dx" in error and "site" in error and error.count("\n") == 1


def test_combat_needs_two_people_of_the_reference(table, tmp_path, capsys):
    frame = pd.read_csv(table, sep="\t")
    learnt = np.where((frame["site"] == "GE") & (frame.index > 0), "no", "yes")
    frame.assign(learn=learnt).to_csv(table, sep="\t", index=False, na_rep="n/a")
    flags = [*FLAGS, "--fit_on=learn:yes", "--reference=GE", "--method=combat", "-o", str(tmp_path / "out.tsv")]
    assert main(["harmonise", str(table), *flags]) == 2
    assert "--reference=GE: 1 people of it to learn from, expected at least two" in capsys.readouterr().err


def test_both_outputs_in_one_file_are_refused(table, tmp_path, capsys):
    new = tmp_path / "new.tsv"
    new.write_bytes(table.read_bytes())
    paths = [f"--output={tmp_path / 'out.tsv'}", f"--new={new}", f"--new_output={tmp_path / 'out.tsv'}"]
    assert main(["harmonise", str(table), *FLAGS, *paths]) == 2
    assert "the same file as --output" in capsys.readouterr().err


def test_a_site_alone_and_a_missing_age_are_refused(table, tmp_path, capsys):
    frame = pd.read_csv(table, sep="\t")
    frame.loc[5, "age"] = np.nan
    frame.to_csv(table, sep="\t", index=False, na_rep="n/a")
    paths = ["-o", str(tmp_path / "out.tsv")]
    assert main(["harmonise", str(table), *FLAGS, *paths]) == 2
    assert "line 7 (sub-005), column age (--keep): missing" in capsys.readouterr().err
    frame.assign(site="GE").to_csv(table, sep="\t", index=False, na_rep="n/a")
    assert main(["harmonise", str(table), *FLAGS, *paths]) == 2
    assert "1 site, expected at least two" in capsys.readouterr().err


def test_the_program_names_its_commands(capsys):
    assert main([]) == 0
    overview = capsys.readouterr().out
    for name in ("run", "harmonise", "transform", "maps", "preflight", "report"):
        assert f"  {name} " in overview
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"eqpool {__version__}\n"
    assert main(["harmonize"]) == 2
    assert "harmonize: no such command; did you mean harmonise?" in capsys.readouterr().err


def test_python_m_eqpool_is_the_program():
    done = subprocess.run([sys.executable, "-m", "eqpool", "preflight", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--participants" in done.stdout
