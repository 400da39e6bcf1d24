"""The work directory: one writer, one config, whole files."""

import ast
import json
import pathlib

import pytest

from eqpool.config import DataConfig, RunConfig, StageOneConfig
from eqpool.errors import InputError
from eqpool.storage.files import read_json
from eqpool.storage.logs import MetricsLog
from eqpool.storage.run_folder import RunFolder


def test_a_second_run_is_refused(tmp_path):
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(InputError, match="another run is using it"),
        RunFolder(tmp_path).locked(),
    ):
        pass
    with RunFolder(tmp_path).locked():
        assert (tmp_path / ".lock").exists()


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / ".part-x.npz").write_text("half")
    (tmp_path / "results.json").write_text("{}")
    with RunFolder(tmp_path).locked():
        assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "images", "results.json"]


def test_another_config_is_refused_by_key(tmp_path):
    RunFolder(tmp_path).claim(RunConfig(seed=1))
    rarely = StageOneConfig(checkpoint_every_epochs=7)
    RunFolder(tmp_path).claim(RunConfig(seed=1, cache_dir="elsewhere", stage_one=rarely))
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(InputError, match=r"config.seed \(1 there, 2 now\)"):
        RunFolder(tmp_path).claim(RunConfig(seed=2))


def test_fewer_workers_go_on_after_a_kill_for_memory(tmp_path):
    RunFolder(tmp_path).claim(RunConfig(data=DataConfig(workers=16)))
    (tmp_path / "metrics.jsonl").touch()
    RunFolder(tmp_path).claim(RunConfig(data=DataConfig(workers=1)))
    with pytest.raises(InputError, match=r"config: config.data.split_seed \(0 there, 1 now\)$"):
        RunFolder(tmp_path).claim(RunConfig(data=DataConfig(workers=1, split_seed=1)))


def test_other_data_are_refused_by_row(tmp_path):
    pooled = "participant_id\tsplit\nsub-1\ttrain\nsub-2\ttest\n"
    RunFolder(tmp_path).claim_data("a", pooled)
    RunFolder(tmp_path).claim_data("b", pooled)  # nothing was computed yet
    (tmp_path / "metrics.jsonl").touch()
    RunFolder(tmp_path).claim_data("b", pooled)
    with pytest.raises(InputError, match='other data: pooled.tsv, line 3: "sub-2 test" then, "sub-2 train" now'):
        RunFolder(tmp_path).claim_data("c", pooled.replace("test", "train"))
    with pytest.raises(InputError, match='line 4: "nothing" then, "sub-3 test" now'):
        RunFolder(tmp_path).claim_data("c", pooled + "sub-3\ttest\n")
    with pytest.raises(InputError, match="the same rows, but other features, images or nuisances"):
        RunFolder(tmp_path).claim_data("c", pooled)
    with pytest.raises(InputError, match="volumes prepared by an earlier version of the preparation, and this .* 4;"):
        RunFolder(tmp_path).claim_data("c", pooled, 4)
    RunFolder(tmp_path).claim_data("b", pooled, 4)  # the same inputs: those volumes lay on the grid already
    with pytest.raises(InputError, match="volumes prepared by version 4 of the preparation, and this eqpool has .* 5;"):
        RunFolder(tmp_path).claim_data("c", pooled, 5)
    assert (tmp_path / "pooled.tsv").read_text() == pooled


def test_a_cache_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert RunFolder(tmp_path / "run").cache(RunConfig(cache_dir="~/cache")) == tmp_path / "home" / "cache"
    assert RunFolder(tmp_path / "run").cache(RunConfig()) == tmp_path / "cache"
    with pytest.raises(InputError, match="~nobody-of-this-name/x: no home folder is known for ~nobody-of-this-name"):
        RunFolder(tmp_path / "run").cache(RunConfig(cache_dir="~nobody-of-this-name/x"))


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), RunFolder(tmp_path / "file").locked():
        pass


def test_the_log_drops_what_a_resumed_run_redoes_and_a_cut_line(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for stage, epoch in (("stage_one", 1), ("stage_one", 2), ("stage_two", 1)):
        log.append({"stage": stage, "step": epoch, "epoch": epoch})
    with open(tmp_path / "metrics.jsonl", "a") as handle:
        handle.write('{"stage": "stage_tw')
    log.drop_after("stage_one", 1)
    assert [(r["stage"], r["epoch"]) for r in log.records()] == [("stage_one", 1), ("stage_two", 1)]


def test_a_folder_in_which_nothing_was_computed_takes_another_config(tmp_path):
    RunFolder(tmp_path).claim(RunConfig(seed=1))  # and then the data turns out to be bad
    RunFolder(tmp_path).claim(RunConfig(seed=2))
    assert read_json(tmp_path / "config.json")["seed"] == 2


def test_a_config_from_before_a_key_was_there_computed_its_default(tmp_path):
    RunFolder(tmp_path).claim(RunConfig())
    (tmp_path / "metrics.jsonl").touch()
    older = read_json(tmp_path / "config.json")
    del older["data"]["described"], older["method"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    RunFolder(tmp_path).claim(RunConfig())
    with pytest.raises(InputError, match=r"config.method \('ours' there, 'mmd' now\)$"):
        RunFolder(tmp_path).claim(RunConfig(method="mmd"))
    for damage in ({"forgotten": 1}, {"data": None}, {"seed": {"data": 0}}):
        (tmp_path / "config.json").write_text(json.dumps(older | damage))
        with pytest.raises(InputError, match=f"config.{next(iter(damage))}"):
            RunFolder(tmp_path).claim(RunConfig())


def test_no_other_module_spells_the_name_of_a_file():
    package = pathlib.Path(__file__).parents[2] / "eqpool"
    owner = package / "storage" / "run_folder.py"
    names = {
        getattr(RunFolder(pathlib.Path()), name).name
        for name, value in vars(RunFolder).items()
        if isinstance(value, property) and name.endswith("_file")
    }
    assert len(names) > 15
    for path in package.rglob("*.py"):
        spelt = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert path == owner or not names & spelt, f"{path.relative_to(package)} spells {names & spelt}"
