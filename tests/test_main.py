"""The command as a user types it: exit codes, one line on stderr, nothing half-written."""

import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "eqpool.main", *arguments], capture_output=True, text=True, cwd=REPOSITORY, timeout=300
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--config: expected a config file, for example --config=configs/adni.py"),
        (["--config=configs/adnii.py"], "configs/adnii.py"),
        (["--config=configs/adni.py:papr"], "configs/adni.py:papr: expected configs/adni.py or configs/adni.py:paper"),
        (["--config=configs/adni.py", "--config.sed=3"], "sed"),
        (["--config=configs/adni.py", "--config.seed=x"], "seed"),
        (["--config=configs/adni.py", "--config.stage_one.epochs=-1"], "config.stage_one.epochs = -1: expected"),
        (["--config=configs/adni.py", "--wokdir=x"], "wokdir"),
        (["--config=configs/adni.py", "runs/x"], "runs/x: unexpected argument"),
        (["--config=configs/german.py", "--config.data.raw_dir=/nowhere", "--workdir={tmp}/run"], "/nowhere"),
        (["--config=configs/adni.py", "--config.devices=999", "--workdir={tmp}/run"], "config.devices = 999"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_two(arguments, expected, tmp_path):
    done = command(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("eqpool: ")
    assert not list(tmp_path.rglob("results.json"))
