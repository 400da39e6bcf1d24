import collections
import dataclasses
import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine

from eqpool.config import DataConfig
from eqpool.data.load import load_cohort
from eqpool.data.sources.simulated import ADCP, ADNI, ADNI_MATCHED, ADNI_SMALL_SUPPORT, _people, build_simulated_cohort
from eqpool.data.sources.simulated_anatomy import Anatomy, Subject
from eqpool.data.sources.simulated_view import ScannerView
from eqpool.data.volumes.grids import named_grid

GRID = named_grid("mni_4mm")


@pytest.fixture(scope="module")
def anatomy():
    return Anatomy(GRID)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_simulated_cohort(tmp_path_factory.mktemp("simulated"), ADNI, GRID, fraction=0.05, progress=False)


def average(anatomy, age, severity):
    return anatomy.on_grid(anatomy.brain(Subject(age, severity, seed=(0,), individuality=0.0)))


@pytest.mark.parametrize(
    ("specification", "expected"),
    [
        (ADNI, {"GE": (44, 78), "Philips": (32, 50), "Siemens": (83, 162)}),  # Lokhande et al. 2022, Table 3
        (ADCP, {"site1": (10, 39), "site2": (10, 33), "site3": (5, 19)}),  # Table 4
    ],
)
def test_counts_and_ages_of_the_paper(specification, expected):
    people = _people(specification, seed=0, fraction=1.0)
    counts = collections.Counter((person.site.name, person.diagnosis == "AD") for person in people)
    assert {site: (counts[site, True], counts[site, False]) for site in expected} == expected
    low, high = specification.age_range
    assert all(low <= person.age <= high for person in people)
    assert len({person.participant_id for person in people}) == len(people)


def test_ages_of_small_support_barely_overlap():
    people = _people(ADNI_SMALL_SUPPORT, seed=0, fraction=1.0)
    ages = {name: np.array([p.age for p in people if p.site.name == name]) for name in ("GE", "Siemens", "Philips")}
    for younger, older in (("GE", "Siemens"), ("Siemens", "Philips")):
        assert 0 <= ages[younger].max() - ages[older].min() <= 3
    assert ages["GE"].max() < ages["Philips"].min()
    assert [len(ages[name]) for name in ages] == [122, 245, 82]  # as in ADNI


@pytest.mark.parametrize("seed", [0, 1])
def test_sites_of_the_matched_cohort_explain_next_to_nothing_of_the_age(seed):
    shares = []
    for specification in (ADNI_MATCHED, ADNI):
        people = _people(specification, seed=seed, fraction=1.0)
        ages = [np.array([p.age for p in people if p.site.name == site.name]) for site in specification.sites]
        assert [len(one) for one in ages] == [122, 82, 245]
        assert min(map(np.min, ages)) >= 50 and max(map(np.max, ages)) <= 95
        everyone = np.concatenate(ages)
        between = sum(len(one) * (one.mean() - everyone.mean()) ** 2 for one in ages)
        shares.append(between / np.sum((everyone - everyone.mean()) ** 2))
    assert shares[0] <= 0.001 and shares[1] > 0.1  # the ages of ADNI differ


def test_sexes_of_table_4():
    people = _people(ADCP, seed=0, fraction=1.0)
    counts = collections.Counter((person.site.name, person.sex) for person in people)
    for site, (female, male) in {"site1": (29, 20), "site2": (30, 13), "site3": (14, 10)}.items():
        assert abs(counts[site, "F"] - female) <= 1 and abs(counts[site, "M"] - male) <= 1


def test_ages_differ_between_scanners():
    people = _people(ADNI, seed=0, fraction=1.0)
    mean = {name: np.mean([p.age for p in people if p.site.name == name]) for name in ("GE", "Philips", "Siemens")}
    assert mean["GE"] + 3 < mean["Siemens"] < mean["Philips"] - 2


def test_age_widens_ventricles_and_thins_cortex(anatomy):
    young, old = average(anatomy, 55, 0), average(anatomy, 90, 0)
    fluid = [(volume > 0) & (volume < 0.45) for volume in (young, old)]
    positions = apply_affine(GRID.affine, np.moveaxis(np.indices(GRID.shape), 0, -1))
    centre = np.linalg.norm((positions - np.array([0, -10, 14])) / np.array([28, 40, 22]), axis=-1) < 1
    assert (fluid[1] & centre).sum() > 1.4 * (fluid[0] & centre).sum()
    outer = GRID.mask & ~centre & (positions[..., 2] > 20)
    assert old[outer].mean() < young[outer].mean() - 0.01


def test_disease_is_where_the_hippocampi_are(anatomy):
    effect = np.abs(average(anatomy, 70, 1) - average(anatomy, 70, 0))
    positions = apply_affine(GRID.affine, np.moveaxis(np.indices(GRID.shape), 0, -1))
    side = np.stack([np.abs(positions[..., 0]), positions[..., 1], positions[..., 2]], axis=-1)
    medial_temporal = (np.abs(side - np.array([30, -19, -14])) < np.array([13, 22, 13])).all(axis=-1)
    assert effect[medial_temporal].mean() > 5 * effect[GRID.mask & ~medial_temporal].mean()
    left, right = (effect[medial_temporal & (np.sign(positions[..., 0]) == sign)].sum() for sign in (-1, 1))
    assert 0.7 < left / right < 1.4


def test_layout(folder):
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    assert list(table.columns) == ["participant_id", "site", "age", "sex", "dx", "mmse"]
    score = table.groupby("dx")["mmse"].mean()
    assert table["mmse"].between(0, 30).all() and score["CN"] - score["AD"] > 2
    assert table.groupby(["site", "dx"]).size().min() == 3
    assert "SIMULATED" in json.loads((folder / "dataset_description.json").read_text())["Name"]
    for name in table["participant_id"]:
        assert name.startswith("sub-simulated")
        image = nibabel.load(folder / name / "anat" / f"{name}_T1w.nii.gz")
        truth = nibabel.load(folder / f"derivatives/truth/{name}/anat/{name}_desc-scannerfree_T1w.nii.gz")
        assert image.shape == truth.shape == GRID.shape
        np.testing.assert_array_equal(image.affine, GRID.affine)
        scan, brain = image.get_fdata(), truth.get_fdata()
        inside = brain > 0
        assert (scan[~inside] == 0).all() and 0.85 < inside.sum() / GRID.mask.sum() < 1.15
        assert np.corrcoef(scan[inside], brain[inside])[0, 1] > 0.7
    for effect in ("age", "disease"):
        assert nibabel.load(folder / f"derivatives/truth/{effect}_mask.nii.gz").get_fdata().sum() > 20
    assert not list(folder.parent.glob(".part-*"))


def test_scans_of_one_scanner_vary(folder):
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    for _, names in table.groupby("site")["participant_id"]:
        level = [np.median(volume[volume > 0]) for volume in (image(folder, name) for name in names)]
        assert 0.04 < np.std(np.log(level)) < 0.4


def image(folder, name):
    return nibabel.load(folder / name / "anat" / f"{name}_T1w.nii.gz").get_fdata()


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_whatever_the_number_of_workers(folder, tmp_path):
    again = build_simulated_cohort(tmp_path, ADNI, GRID, fraction=0.05, workers=3, progress=False)
    assert again.name == folder.name and contents(again) == contents(folder)


def test_another_seed_gives_another_cohort(tmp_path):
    few = dataclasses.replace(ADCP, sites=ADCP.sites[:1])
    grid = named_grid("24x28x24")
    first, second = (build_simulated_cohort(tmp_path, few, grid, seed=s, fraction=0.0, progress=False) for s in (0, 1))
    assert first != second
    name = "sub-simulated0001/anat/sub-simulated0001_T1w.nii.gz"
    assert (first / name).read_bytes() != (second / name).read_bytes()


def test_through_the_same_door_and_reused(tmp_path):
    config = DataConfig(dataset="adcp", simulated_fraction=0.1, grid="24x28x24")
    cohort = load_cohort(config, tmp_path, progress=False)
    assert cohort.simulated and cohort.name == "adcp" and "SIMULATED" in cohort.notes[0]
    assert cohort.site_names == ("site1", "site2", "site3") and cohort.target_classes == ("AD", "Control")
    assert cohort.inputs.shape[1:] == (24, 28, 24) and np.isfinite(cohort.inputs).all()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = load_cohort(config, tmp_path, progress=False)
    np.testing.assert_array_equal(again.split, cohort.split)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_brain_seen_by_its_own_scanner_is_its_image(folder):
    """Up to the rounding of the stored truth, half a thousandth of white matter, whose level is 420 to 1500."""
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    for site, names in table.groupby("site")["participant_id"]:
        view = ScannerView(ADNI, site, GRID, 0)
        for name in names[:2]:
            path = folder / name / "anat" / f"{name}_T1w.nii.gz"
            seen, written = view.of(path), nibabel.load(path)
            np.testing.assert_array_equal(seen.affine, written.affine)
            np.testing.assert_allclose(seen.get_fdata(), written.get_fdata(), atol=4)
            assert np.abs(seen.get_fdata() - written.get_fdata()).mean() < 0.5


def test_the_views_of_a_scanner_are_alike_and_those_of_a_person_differ(folder):
    """As measured above: dark against bright tissue, which a scanner's contrast curve moves."""
    table = pd.read_csv(folder / "participants.tsv", sep="\t").groupby("site").head(3)
    contrast = {}
    for site in ("GE", "Siemens"):
        view = ScannerView(ADNI, site, GRID, 0)
        for name in table["participant_id"]:
            values = view.of(folder / name / "anat" / f"{name}_T1w.nii.gz").get_fdata()
            contrast[site, name] = np.quantile(values[values > 0], 0.05) / np.quantile(values[values > 0], 0.95)
            again = view.of(folder / name / "anat" / f"{name}_T1w.nii.gz").get_fdata()
            np.testing.assert_array_equal(again, values)
    seen = pd.Series(contrast).unstack(0)
    assert (seen["GE"] > seen["Siemens"] + 0.03).all()  # whoever it is, the lower exponent shows fluid brighter


def test_scanners_leave_a_mark_that_the_truth_lacks(folder):
    table = pd.read_csv(folder / "participants.tsv", sep="\t")

    def spread(pattern):
        """Variance of mean contrast between scanners over that within them."""
        contrast = []
        for name in table["participant_id"]:
            values = nibabel.load(next((folder / pattern.format(name)).glob("*_T1w.nii.gz"))).get_fdata()
            values = values[values > 0]
            contrast.append(np.quantile(values, 0.05) / np.quantile(values, 0.95))
        groups = pd.Series(contrast).groupby(table["site"])
        return groups.mean().var() / groups.var().mean()

    assert spread("{}/anat") > 5 * spread("derivatives/truth/{}/anat")
