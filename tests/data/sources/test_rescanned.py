"""Real-shaped volumes scanned again: who, what changes, and what must not."""

import pathlib

import nibabel
import numpy as np
import pandas as pd
import pytest

from eqpool.commands.rescan import main
from eqpool.data.sources.rescanned import SCANNER, SITE, _chosen, rescan, rescan_cohort
from eqpool.data.tables.participants import read_participants
from eqpool.data.volumes.image_files import read_volume
from eqpool.data.volumes.locate import find_images
from eqpool.errors import InputError

SHAPE = (20, 22, 18)
AFFINE = np.array([[0, 0, 5.0, -40], [-5.0, 0, 0, 50], [0, -5.0, 0, 45], [0, 0, 0, 1]])  # stored P-S-R


def brain(seed: int) -> np.ndarray:
    """An ellipsoid with a bright middle, 0 around it."""
    offset = np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2
    radius = np.linalg.norm(offset.T / (np.array(SHAPE) / 2.4)[:, None, None, None], axis=0)
    noise = np.random.default_rng(seed).normal(1, 0.03, SHAPE)
    return np.where(radius < 1, np.where(radius < 0.6, 200.0, 140.0) * noise, 0).astype(np.float32)


@pytest.fixture
def cohort(tmp_path):
    folder = tmp_path / "cohort"
    rows = ["participant_id\tsession_id\tsite\tage"]
    for number in range(6):
        for session in ("1", "2") if number == 0 else ("1",):
            path = folder / f"sub-{number}" / f"ses-{session}" / "anat" / f"sub-{number}_ses-{session}_T1w.nii.gz"
            path.parent.mkdir(parents=True)
            nibabel.save(nibabel.Nifti1Image(brain(number), AFFINE), path)
            rows.append(f"sub-{number}\t{session}\tGuys\t{30 + number}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder / "participants.tsv"


def test_half_of_the_people_are_scanned_again_and_the_others_are_untouched(cohort, tmp_path):
    written = rescan_cohort(cohort, tmp_path / "out", progress=False)
    table = pd.read_csv(written, sep="\t", dtype=str)
    again = table["site"] == SITE
    assert table[again]["participant_id"].nunique() == 3 and (table["original_site"] == "Guys").all()
    assert table.groupby("participant_id")["site"].nunique().max() == 1  # a person's sessions stay together
    for row in table.itertuples():
        name = f"{row.participant_id}_ses-{row.session_id}_T1w.nii.gz"
        inside = f"{row.participant_id}/ses-{row.session_id}/anat/{name}"
        before, after = read_volume(cohort.parent / inside), read_volume(written.parent / inside)
        np.testing.assert_allclose(before.affine, after.affine)
        a, b = before.get_fdata(), after.get_fdata()
        np.testing.assert_array_equal(a == 0, b == 0)
        assert np.array_equal(a, b) == (row.site != SITE)


def test_the_halves_differ_in_the_column_that_is_asked_for(tmp_path):
    """By 1.13 deviations: of x + noise the upper half has a mean x of sqrt(1 / pi) = 0.56 deviations."""
    random = np.random.default_rng(0)
    ages = random.normal(50, 10, 4000)
    rows = [f"sub-{number}\ta\t{age}\tn/a\t7" for number, age in enumerate(ages)]
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tsite\tage\tblank\tsame\n" + "\n".join(rows) + "\n")
    table = read_participants(path)
    again = _chosen(table, 0, "age")
    assert again.sum() == 2000
    assert (ages[again].mean() - ages[~again].mean()) / ages.std() == pytest.approx(2 / np.sqrt(np.pi), abs=0.06)
    alike = _chosen(table, 0, "")
    assert abs(ages[alike].mean() - ages[~alike].mean()) / ages.std() < 0.1
    with pytest.raises(InputError, match="column blank"):
        _chosen(table, 0, "blank")
    with pytest.raises(InputError, match="column same: one value, expected several for --shift=same"):
        _chosen(table, 0, "same")


@pytest.mark.parametrize("absolute_paths", [True, False])
@pytest.mark.parametrize("absolute_table", [True, False])
def test_a_path_column_leads_to_the_new_images(tmp_path, monkeypatch, absolute_paths, absolute_table):
    folder = tmp_path / "cohort"
    (folder / "scans").mkdir(parents=True)
    lines = ["participant_id\tsite\tage\tpath"]
    for number in range(4):
        nibabel.save(nibabel.Nifti1Image(brain(number), AFFINE), folder / "scans" / f"{number}.nii.gz")
        where = f"{folder}/scans/{number}.nii.gz" if absolute_paths else f"scans/{number}.nii.gz"
        lines.append(f"p{number}\tGuys\t{30 + number}\t{where}")
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    table = folder / "participants.tsv" if absolute_table else pathlib.Path("cohort/participants.tsv")
    written = rescan_cohort(table, tmp_path / "out", progress=False)
    made = read_participants(written)
    for row, image in enumerate(find_images(made, written.parent)):
        assert image.is_relative_to(written.parent)
        before = read_volume(folder / "scans" / f"{row}.nii.gz").get_fdata()
        same = np.array_equal(read_volume(image).get_fdata(), before)
        assert same == (made.frame["site"][row] == "Guys")


def test_the_contrast_is_the_scanners():
    """Without noise, blur and fields, grey against white follows the contrast curve."""
    image = nibabel.Nifti1Image(brain(0), np.diag([5.0, 5, 5, 1]))
    values = np.asarray(image.dataobj)
    ratio = np.median(values[(values > 0) & (values < 170)]) / np.percentile(values[values > 0], 98)
    quiet = SCANNER.__class__(1.3, 0.0, 0.0, 21, 0.01, 1e-6, 420.0)
    ratios = []
    for seed in range(20):
        after = rescan(image, quiet, np.random.default_rng(seed))
        assert after[values == 0].max() == 0
        ratios.append(np.median(after[(values > 0) & (values < 170)]) / np.percentile(after[values > 170], 50))
    white = np.median(values[values > 170]) / np.percentile(values[values > 0], 98)
    expected = (ratio / white) ** 1.3
    assert np.mean(ratios) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("fault", ["exists", "not stripped", "no site"])
def test_faults_are_one_line(cohort, tmp_path, capsys, fault):
    if fault == "exists":
        (tmp_path / "out").mkdir()
    elif fault == "no site":
        cohort.write_text(cohort.read_text().replace("site", "place"))
    else:
        for path in cohort.parent.rglob("*.nii.gz"):
            nibabel.save(nibabel.Nifti1Image(brain(0) + 1, AFFINE), path)
    assert main([f"--participants={cohort}", f"--output={tmp_path / 'out'}"]) == 2
    expected = {"exists": "exists already", "not stripped": "no voxel is 0", "no site": "no column site"}[fault]
    told = capsys.readouterr().err
    assert expected in told and told.startswith("eqpool: ") and told.count("\n") == 1
