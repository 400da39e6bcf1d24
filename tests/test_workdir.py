"""The work directory: one writer, one config, whole files."""

import json

import pytest

from eqpool import workdir
from eqpool.config import RunConfig, StageOneConfig
from eqpool.errors import InputError


def test_a_second_run_is_refused(tmp_path):
    with workdir.locked(tmp_path), pytest.raises(InputError, match="another run is using it"), workdir.locked(tmp_path):
        pass
    with workdir.locked(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_another_config_is_refused_by_key(tmp_path):
    workdir.claim(tmp_path, RunConfig(seed=1))
    rarely = StageOneConfig(checkpoint_every_epochs=7)
    workdir.claim(tmp_path, RunConfig(seed=1, cache_dir="elsewhere", stage_one=rarely))
    with pytest.raises(InputError, match=r"config.seed \(1 there, 2 now\)"):
        workdir.claim(tmp_path, RunConfig(seed=2))


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), workdir.locked(tmp_path / "file"):
        pass


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "results.json"
    workdir.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        workdir.write_json(path, {"a": float("nan")})

    def half(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        workdir.write_atomically(path, half)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_the_log_drops_what_a_resumed_run_redoes_and_a_cut_line(tmp_path):
    log = workdir.MetricsLog(tmp_path / "metrics.jsonl")
    for stage, epoch in (("stage_one", 1), ("stage_one", 2), ("stage_two", 1)):
        log.append({"stage": stage, "step": epoch, "epoch": epoch})
    with open(tmp_path / "metrics.jsonl", "a") as handle:
        handle.write('{"stage": "stage_tw')
    log.drop_after("stage_one", 1)
    assert [(r["stage"], r["epoch"]) for r in log.records()] == [("stage_one", 1), ("stage_two", 1)]
