"""The work directory: one writer, one config, whole files."""

import json

import pytest

from eqpool.config import DataConfig, RunConfig, StageOneConfig
from eqpool.errors import InputError
from eqpool.storage import run_folder


def test_a_second_run_is_refused(tmp_path):
    with (
        run_folder.locked(tmp_path),
        pytest.raises(InputError, match="another run is using it"),
        run_folder.locked(tmp_path),
    ):
        pass
    with run_folder.locked(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / ".part-x.npz").write_text("half")
    (tmp_path / "results.json").write_text("{}")
    with run_folder.locked(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "images", "results.json"]


def test_another_config_is_refused_by_key(tmp_path):
    run_folder.claim(tmp_path, RunConfig(seed=1))
    rarely = StageOneConfig(checkpoint_every_epochs=7)
    run_folder.claim(tmp_path, RunConfig(seed=1, cache_dir="elsewhere", stage_one=rarely))
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(InputError, match=r"config.seed \(1 there, 2 now\)"):
        run_folder.claim(tmp_path, RunConfig(seed=2))


def test_fewer_workers_go_on_after_a_kill_for_memory(tmp_path):
    run_folder.claim(tmp_path, RunConfig(data=DataConfig(workers=16)))
    (tmp_path / "metrics.jsonl").touch()
    run_folder.claim(tmp_path, RunConfig(data=DataConfig(workers=1)))
    with pytest.raises(InputError, match=r"config: config.data.split_seed \(0 there, 1 now\)$"):
        run_folder.claim(tmp_path, RunConfig(data=DataConfig(workers=1, split_seed=1)))


def test_other_data_are_refused_by_row(tmp_path):
    pooled = "participant_id\tsplit\nsub-1\ttrain\nsub-2\ttest\n"
    run_folder.claim_data(tmp_path, "a", pooled)
    run_folder.claim_data(tmp_path, "b", pooled)  # nothing was computed yet
    (tmp_path / "metrics.jsonl").touch()
    run_folder.claim_data(tmp_path, "b", pooled)
    with pytest.raises(InputError, match='other data: pooled.tsv, line 3: "sub-2 test" then, "sub-2 train" now'):
        run_folder.claim_data(tmp_path, "c", pooled.replace("test", "train"))
    with pytest.raises(InputError, match='line 4: "nothing" then, "sub-3 test" now'):
        run_folder.claim_data(tmp_path, "c", pooled + "sub-3\ttest\n")
    with pytest.raises(InputError, match="the same rows, but other features, images or nuisances"):
        run_folder.claim_data(tmp_path, "c", pooled)
    with pytest.raises(InputError, match="volumes prepared by an earlier version of the preparation, and this .* 4;"):
        run_folder.claim_data(tmp_path, "c", pooled, 4)
    run_folder.claim_data(tmp_path, "b", pooled, 4)  # the same inputs: those volumes lay on the grid already
    with pytest.raises(InputError, match="volumes prepared by version 4 of the preparation, and this eqpool has .* 5;"):
        run_folder.claim_data(tmp_path, "c", pooled, 5)
    assert (tmp_path / "pooled.tsv").read_text() == pooled


def test_a_cache_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run_folder.cache_folder(RunConfig(cache_dir="~/cache"), tmp_path / "run") == tmp_path / "home" / "cache"
    assert run_folder.cache_folder(RunConfig(), tmp_path / "run") == tmp_path / "cache"
    with pytest.raises(InputError, match="~nobody-of-this-name/x: no home folder is known for ~nobody-of-this-name"):
        run_folder.cache_folder(RunConfig(cache_dir="~nobody-of-this-name/x"), tmp_path / "run")


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), run_folder.locked(tmp_path / "file"):
        pass


def test_the_log_drops_what_a_resumed_run_redoes_and_a_cut_line(tmp_path):
    log = run_folder.MetricsLog(tmp_path / "metrics.jsonl")
    for stage, epoch in (("stage_one", 1), ("stage_one", 2), ("stage_two", 1)):
        log.append({"stage": stage, "step": epoch, "epoch": epoch})
    with open(tmp_path / "metrics.jsonl", "a") as handle:
        handle.write('{"stage": "stage_tw')
    log.drop_after("stage_one", 1)
    assert [(r["stage"], r["epoch"]) for r in log.records()] == [("stage_one", 1), ("stage_two", 1)]


def test_a_folder_in_which_nothing_was_computed_takes_another_config(tmp_path):
    run_folder.claim(tmp_path, RunConfig(seed=1))  # and then the data turns out to be bad
    run_folder.claim(tmp_path, RunConfig(seed=2))
    assert run_folder.read_json(tmp_path / "config.json")["seed"] == 2


def test_a_config_from_before_a_key_was_there_computed_its_default(tmp_path):
    run_folder.claim(tmp_path, RunConfig())
    (tmp_path / "metrics.jsonl").touch()
    older = run_folder.read_json(tmp_path / "config.json")
    del older["data"]["described"], older["method"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    run_folder.claim(tmp_path, RunConfig())
    with pytest.raises(InputError, match=r"config.method \('ours' there, 'mmd' now\)$"):
        run_folder.claim(tmp_path, RunConfig(method="mmd"))
    for damage in ({"forgotten": 1}, {"data": None}, {"seed": {"data": 0}}):
        (tmp_path / "config.json").write_text(json.dumps(older | damage))
        with pytest.raises(InputError, match=f"config.{next(iter(damage))}"):
            run_folder.claim(tmp_path, RunConfig())
