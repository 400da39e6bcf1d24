import csv
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from eqpool.config import DataConfig
from eqpool.data.load import load_cohort
from eqpool.data.sources import downloads
from eqpool.errors import InputError


def adult_line(i, end=""):
    workclass = ("Private", "?", "Self-emp-inc")[i % 3]
    return (
        f"{20 + i}, {workclass}, {1000 + i}, Masters, {9 + i % 4}, Divorced, Sales, Husband, White, "
        f"{'Male' if i % 2 else 'Female'}, {i}, 0, 40, Peru, {'>50K' if i // 2 % 2 else '<=50K'}{end}"
    )


def german_line(i):
    return (
        f"A1{1 + i % 4} {6 + i} A34 A43 {1000 + i} A65 A75 4 A93 A101 4 A121 {20 + i} A143 A152 2 A173 1 A192 "
        f"A20{1 + i % 2} {1 + i // 2 % 2}"
    )


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A few rows in UCI's layout, with the checksums made to fit."""
    folder = tmp_path / "raw"
    folder.mkdir()
    contents = {
        "adult.data": "\n".join(adult_line(i) for i in range(40)) + "\n\n",
        "adult.test": "|1x3 Cross validator\n" + "\n".join(adult_line(i, ".") for i in range(12)) + "\n\n",
        "german.data": "\n".join(german_line(i) for i in range(50)) + "\n",
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
        monkeypatch.setitem(downloads.CHECKSUMS, name, hashlib.sha256(text.encode()).hexdigest())
    return folder


def load(name, folder, tmp_path, **changes):
    return load_cohort(DataConfig(dataset=name, raw_dir=str(folder), **changes), tmp_path / "cache", progress=False)


def test_adult_rows_in_miniature(raw, tmp_path):
    cohort = load("adult", raw, tmp_path)
    assert [len(cohort.rows(split)) for split in ("train", "validation", "test")] == [32, 8, 12]
    assert cohort.covariates[:3, 0].tolist() == [20, 21, 22]
    assert cohort.covariates[40, 0] == 20 and cohort.split[40] == "test"
    assert cohort.site_names == ("Male", "Female") and cohort.site[:4].tolist() == [1, 0, 1, 0]
    assert cohort.target_classes == ("<=50K", ">50K") and cohort.target[:4].tolist() == [0, 0, 1, 1]
    assert "workclass=?" in cohort.table.input_names
    banned = ("age", "gender", "sex", "fnlwgt", "target")
    assert not any(name.split("=")[0] in banned for name in cohort.table.input_names)


def test_german_rows_in_miniature(raw, tmp_path):
    cohort = load("german", raw, tmp_path)
    assert [len(cohort.rows(split)) for split in ("train", "validation", "test")] == [32, 8, 10]
    assert cohort.site_names[cohort.site[0]] == "foreign worker" and cohort.target_classes[cohort.target[0]] == "good"
    assert cohort.covariates[:2, 0].tolist() == [20, 21]
    duration = cohort.inputs[:, cohort.table.input_names.index("duration_months")]
    raw_duration = 6.0 + np.arange(50)
    train = cohort.rows("train")
    expected = (raw_duration - raw_duration[train].mean()) / raw_duration[train].std()
    np.testing.assert_allclose(duration, expected, rtol=1e-5)


def test_an_altered_copy_is_refused_even_when_prepared_before(raw, tmp_path):
    load("german", raw, tmp_path)
    path = raw / "german.data"
    path.write_text(path.read_text().replace("A11 6", "A11 7", 1))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputError) as caught:
        load("german", raw, tmp_path)
    assert str(path) in str(caught.value) and found in str(caught.value)
    assert downloads.CHECKSUMS["german.data"] in str(caught.value)


def test_a_missing_copy(tmp_path):
    with pytest.raises(InputError, match=r"adult\.data: no such file"):
        load("adult", tmp_path, tmp_path)


def test_no_download(serve, tmp_path, monkeypatch):
    monkeypatch.setitem(downloads.URLS, "german.data", f"{serve(tmp_path)}/nowhere")
    with pytest.raises(InputError, match="cannot be downloaded .* give config.data.raw_dir"):
        load_cohort(DataConfig(dataset="german"), tmp_path / "cache", progress=False)
    assert not list((tmp_path / "cache" / "downloads").iterdir())


def test_a_download_is_verified_and_kept(raw, serve, tmp_path, monkeypatch):
    monkeypatch.setitem(downloads.URLS, "german.data", f"{serve(raw)}/german.data")
    first = load_cohort(DataConfig(dataset="german"), tmp_path / "cache", progress=False)
    (raw / "german.data").unlink()
    second = load_cohort(DataConfig(dataset="german"), tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(first.inputs, second.inputs)


def test_published_split_missing(tmp_path):
    with pytest.raises(InputError, match=r"german\.npz: no such file"):
        load("german", tmp_path, tmp_path, split="published")


def test_no_tensorflow():
    code = "import sys, eqpool.data.sources.uci; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_real_german(shared_data, tmp_path):
    cohort = load("german", shared_data / "uci", tmp_path)
    assert cohort.inputs.shape == (1000, 58)  # as many as the published arrays have
    assert [len(cohort.rows(split)) for split in ("train", "validation", "test")] == [640, 160, 200]
    fields = [line.split() for line in (shared_data / "uci" / "german.data").read_text().splitlines()]
    assert cohort.covariates[:, 0].tolist() == [float(row[12]) for row in fields]
    assert [cohort.target_classes[t] for t in cohort.target] == [{"1": "good", "2": "bad"}[row[20]] for row in fields]
    assert [cohort.site_names[s] == "foreign worker" for s in cohort.site] == [row[19] == "A201" for row in fields]
    rates = [cohort.target[cohort.rows(split)].mean() for split in ("train", "validation", "test")]
    np.testing.assert_allclose(rates, 0.3, atol=0.01)


def test_real_adult(shared_data, tmp_path):
    cohort = load("adult", shared_data / "uci", tmp_path)
    assert cohort.inputs.shape[0] == 48842
    assert [len(cohort.rows(split)) for split in ("train", "validation", "test")] == [26049, 6512, 16281]
    with (shared_data / "uci" / "adult.data").open() as file:
        first = [[field.strip() for field in row] for row in csv.reader(file) if row]
    assert cohort.covariates[: len(first), 0].tolist() == [float(row[0]) for row in first]
    names = list(cohort.table.input_names)
    married = cohort.inputs[: len(first), names.index("marital_status=Divorced")]
    assert married.tolist() == [float(row[5] == "Divorced") for row in first]


def test_published_arrays(shared_data, tmp_path):
    german = load("german", shared_data / "published_split", tmp_path, split="published")
    assert [len(german.rows(split)) for split in ("train", "validation", "test")] == [641, 161, 200]
    assert german.covariates.max() == 75
    adult = load("adult", shared_data / "published_split", tmp_path, split="published")
    assert adult.inputs.shape == (12943 + 15015 + 17266, 100) and adult.covariates.min() == 17
    assert any("misaligned" in note for note in adult.notes)
