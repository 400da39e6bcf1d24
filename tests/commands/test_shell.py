"""Every module that is a command says what it does, with an example, and takes its typing errors in one line."""

import errno
import pathlib
import runpy
import sys

import pytest

from eqpool.commands.shell import attempt
from eqpool.engine.loop import Preempted, TrainingDiverged
from eqpool.errors import InputError

# Other tests import these modules; here they run once more, as `python -m` runs them.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")

ROOT = pathlib.Path(__file__).parents[2]
FILES = [path for folder in ("eqpool", "experiments") for path in (ROOT / folder).rglob("*.py")]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in FILES
    if path.stem == "__main__" or '__name__ == "__main__"' in path.read_text()
)


def run_command(name: str, *arguments: str) -> int | str | None:
    """Runs a module as `python -m` does; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", [name, *arguments])
        runpy.run_module(name, run_name="__main__", alter_sys=False)
    return stopped.value.code


def test_an_experiment_takes_bad_input_in_one_line_with_exit_code_two(capsys):
    assert run_command("experiments", "istn_brain", "--sources=Elsewhere") == 2
    assert capsys.readouterr().err == "eqpool: --sources=Elsewhere: no site Elsewhere, expected UKBB or CamCAN\n"


def test_the_commands_are_found():
    assert {"eqpool.maps", "eqpool.preflight", "eqpool.report", "experiments"} <= set(COMMANDS)


@pytest.mark.parametrize(
    "name",
    [name for name in COMMANDS if name not in ("eqpool.main", "eqpool.commands.main", "eqpool.commands.preflight")],
)  # eqpool.main: see tests/commands/test_main.py; the commands behind doors show the name of their door
def test_help_says_what_it_does_with_an_example(name, capsys):
    assert not run_command(name, "--help")
    _, description = capsys.readouterr().out.split("\n\n", 1)
    assert f"python -m {name}" in description or f"eqpool {name.removeprefix('eqpool.')} " in description


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--workdr=x"], "--workdr: no such flag; did you mean --workdir?"),
        ([], "the following arguments are required: --workdir"),
        (["--workdir=x", "y"], "unrecognized arguments: y"),
        (["--workdir=x", "--folds=three"], "three"),
        (["--workdir=gs://bucket/x"], "--workdir=gs://bucket/x: an address, expected a path"),
        (["--workdir", "gs://bucket/x"], "gs://bucket/x: an address, expected a path"),
    ],
)
def test_a_typing_error_is_one_line_and_exit_code_two(arguments, expected, capsys):
    assert run_command("eqpool.maps", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("eqpool: ") and expected in said and said.count("\n") == 1


@pytest.mark.parametrize("name", ["eqpool.maps", "eqpool.transform", "eqpool.report"])
def test_a_tilde_is_the_home_folder_whatever_the_shell_leaves(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = ["--participants=~/new.tsv", "--output=~/out"] if name == "eqpool.transform" else []
    assert run_command(name, "--workdir=~/run", *flags) == 2
    assert str(tmp_path / "run") in capsys.readouterr().err  # which is not there
    assert run_command(name, "--workdir=~nobody-of-this-name/run", *flags) == 2
    said = capsys.readouterr().err
    assert "~nobody-of-this-name/run: no home folder is known for ~nobody-of-this-name" in said
    assert said.count("\n") == 1


def stopping(error: BaseException):
    def stop(*_, **__):
        raise error

    return stop


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (InputError("x.tsv: empty"), 2, "x.tsv: empty"),
        (OSError(errno.ENOSPC, "No space", "a.nii"), 2, "a.nii: No space; nothing that was finished is lost"),
        (OSError(errno.EDQUOT, "Over quota"), 2, "runs/x: Over quota; nothing that was finished is lost"),
        (TrainingDiverged("step 3"), 1, "step 3"),
        (Preempted("stopped"), 143, "stopped; the same command goes on from there"),
        (KeyboardInterrupt(), 130, "interrupted; the same command starts again"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_why_work_ended_early_is_one_line(error, code, expected, capsys):
    assert attempt(stopping(error), pathlib.Path("runs/x"), "starts again") == code
    assert capsys.readouterr().err == f"eqpool: {expected}\n"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyError("split")], ids=["disk", "key"])
def test_a_bug_is_not_hidden(error):
    with pytest.raises(type(error)):
        attempt(stopping(error), pathlib.Path("runs/x"), "starts again")
    assert attempt(lambda: None, pathlib.Path("runs/x"), "starts again") == 0


@pytest.mark.parametrize(
    ("name", "flags", "work", "again"),
    [
        (
            "eqpool.maps", "workdir", "eqpool.storage.run_folder.RunFolder.read_config",
            "goes on from the last checkpoint",
        ),
        (
            "eqpool.transform", "workdir participants output", "eqpool.storage.run_folder.RunFolder.read_config",
            "writes every file again",
        ),
        ("eqpool.report", "workdir", "eqpool.report.page.write_report", "draws every figure again"),
    ],
)  # fmt: skip
def test_control_c_and_a_full_disk_are_one_line_of_every_command(
    name, flags, work, again, tmp_path, monkeypatch, capsys
):
    for file in ("config.json", "results.json", "participants.tsv"):
        (tmp_path / file).write_text("{}")
    places = {"participants": tmp_path / "participants.tsv"}
    arguments = [f"--{flag}={places.get(flag, tmp_path)}" for flag in flags.split()]
    monkeypatch.setattr(work, stopping(KeyboardInterrupt()))
    assert run_command(name, *arguments) == 130
    assert capsys.readouterr().err == f"eqpool: interrupted; the same command {again}\n"
    monkeypatch.setattr(work, stopping(OSError(errno.ENOSPC, "No space")))
    assert run_command(name, *arguments) == 2
    assert capsys.readouterr().err == f"eqpool: {tmp_path}: No space; nothing that was finished is lost\n"
