"""Adding a method is adding one file: it trains, resumes, transforms, reports and is planned like those that ship."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from eqpool.commands.new_scans import transform
from eqpool.commands.run import dry_run, run
from eqpool.config import DataConfig
from eqpool.config.methods import METHODS, MethodEntry
from eqpool.storage.run_folder import RunFolder
from tests.conftest import tiny_config


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", MethodEntry("tests.methods.toy:Toy"))
    random = np.random.default_rng(0)
    rows = np.arange(48)
    table = pd.DataFrame({"participant_id": [f"p{row}" for row in rows], "site": np.array(["A", "B"])[rows % 2]})
    table = table.assign(age=random.uniform(20, 80, 48).round(1), dx=np.array(["x", "y"])[rows // 2 % 2])
    table[["f0", "f1", "f2"]] = random.normal(size=(48, 3)).round(4)
    table.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    data = DataConfig(participants=str(tmp_path / "participants.tsv"), features="f*")
    return dataclasses.replace(tiny_config(tmp_path), method="toy", data=data)


def test_it_trains_transforms_and_reports(config, tmp_path, capsys):
    results = run(config, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert results["method"] == "toy" and 0 <= results["metrics"]["accuracy"] <= 100
    assert "Method: toy" in folder.report_file.read_text()
    embedded = pd.read_csv(folder.embeddings_file, sep="\t").set_index("participant_id")
    made = transform(folder.path, tmp_path / "participants.tsv", tmp_path / "out").set_index("participant_id")
    np.testing.assert_allclose(made.filter(regex="^phi_"), embedded.filter(regex="^phi_").loc[made.index], atol=1e-5)
    # What pooling changes in the decode is nothing here, so that features come back as they were.
    harmonised = pd.read_csv(RunFolder(tmp_path / "out").harmonised_file, sep="\t")
    given = pd.read_csv(tmp_path / "participants.tsv", sep="\t")
    np.testing.assert_allclose(harmonised[["f0", "f1", "f2"]], given[["f0", "f1", "f2"]], atol=1e-5)
    assert run(config, tmp_path / "run", quiet=True)["metrics"]["accuracy"] == results["metrics"]["accuracy"]


def test_its_plan_is_shown(config, tmp_path, capsys):
    dry_run(config, tmp_path / "run")
    stage, *_ = [line for line in capsys.readouterr().out.splitlines() if line.startswith("toy ")]
    assert "x 3" in stage
