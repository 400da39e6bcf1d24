"""A path that is not there is refused in one line, and before jax, pandas or matplotlib are imported."""

import json
import pathlib
import subprocess
import sys

import pytest

from eqpool.commands import given_paths
from eqpool.config import default_config
from eqpool.config.check import from_config_dict
from eqpool.errors import InputError
from eqpool.storage.run_folder import RunFolder

REPOSITORY = pathlib.Path(__file__).parents[2]
# Runs a command as `python -m` does, and prints its exit code and what it has imported by its end.
RUNNER = """
import json, runpy, sys
name, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
except SystemExit as stopped:
    print(json.dumps([stopped.code, sorted({module.split(".")[0] for module in sys.modules})]))
"""
HEAVY = {"flax", "grain", "jax", "matplotlib", "nibabel", "nilearn", "optax", "orbax", "pandas", "scipy", "sklearn"}


def refused(folder: pathlib.Path, name: str, *arguments: str) -> tuple[int, set[str], str]:
    """The exit code of a command that runs in `folder`, the packages that it imported, and what it said on stderr."""
    command = [sys.executable, "-c", RUNNER, name, *arguments]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, env=environment)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules), done.stderr


@pytest.fixture
def place(tmp_path):
    """A folder with the files of a run in `run`, a table, and a file that is no folder."""
    (tmp_path / "run").mkdir()
    for name in ("run/config.json", "run/results.json", "table.tsv", "file"):
        (tmp_path / name).write_text("{}")
    return tmp_path


GERMAN = "--config=configs/german.py"
TABLE = "--participants=table.tsv"


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("eqpool.transform", ["--workdir=nope", TABLE, "--output=out"], "--workdir=nope: no such folder; expected"),
        ("eqpool.transform", ["--workdir=file", TABLE, "--output=out"], "--workdir=file: a file; expected"),
        ("eqpool.transform", ["--workdir=.", TABLE, "--output=out"], "--workdir=.: config.json not found; expected"),
        ("eqpool.transform", ["--workdir=run", "--participants=a/b/c.tsv", "--output=out"], "a in it is not)"),
        ("eqpool.transform", ["--workdir=run", "--participants=run", "--output=out"], "--participants=run: a folder"),
        ("eqpool.transform", ["--workdir=run", TABLE, "--output=a/b/out"], "--output=a/b/out: "),
        ("eqpool.transform", ["--workdir=run", TABLE, "--output=file"], "--output=file: a file; expected a folder"),
        ("eqpool.transform", ["--workdir=run", TABLE, "--output=file/out"], "file is a file; expected a folder"),
        ("eqpool.transform", ["--workdir=run", TABLE, "--output=out", "--root=x"], "--root=x: no such folder"),
        ("eqpool.report", ["--workdir=nope"], "--workdir=nope: no such folder"),
        ("eqpool.report", ["--workdir=run", "--compare", "run", "nope"], "--compare=nope: no such folder"),
        ("eqpool.maps", ["--workdir=nope"], "--workdir=nope: no such folder"),
        ("eqpool.maps", ["--workdir=.", "--folds=2"], "--workdir=.: config.json not found"),
        ("eqpool.preflight", ["--participants=nope.tsv"], "--participants=nope.tsv: no such file; expected"),
        ("eqpool.preflight", [TABLE, "--json=a/findings.json"], "--json=a/findings.json: no such folder"),
        ("eqpool.main", ["--config=nope.py"], "--config=nope.py: no such file"),
        ("eqpool.main", [GERMAN, "--config.data.participants=no.tsv"], 'config.data.participants = "no.tsv": no such'),
        ("eqpool.main", [GERMAN, "--config.data.raw_dir=no"], 'config.data.raw_dir = "no": no such folder; expected'),
        ("eqpool.main", [GERMAN, "--config.data.root=file"], 'config.data.root = "file": a file; expected'),
        ("eqpool.main", [GERMAN, "--config.cache_dir=a/b"], 'config.cache_dir = "a/b": '),
        ("eqpool.main", [GERMAN, "--workdir=file/run"], "--workdir=file/run: file is a file; expected a folder"),
        ("eqpool.main", [GERMAN, "--dry_run", "--config.data.raw_dir=no"], 'config.data.raw_dir = "no"'),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_before_anything_heavy_is_imported(name, arguments, expected, place):
    code, modules, error = refused(place, name, *arguments)
    assert code == 2 and expected in error
    assert error.startswith("eqpool: ") and error.count("\n") == 1
    assert not modules & HEAVY
    assert sorted(path.name for path in place.iterdir()) == ["file", "run", "table.tsv"]  # and nothing was made


def test_the_runner_sees_what_a_command_imports(place):
    """Of a table that is there but no table: refused by what reads it, so that pandas has been imported."""
    code, modules, error = refused(place, "eqpool.preflight", TABLE)
    assert code == 2 and "pandas" in modules and "jax" not in modules and "table.tsv" in error


def test_importing_eqpool_waits_for_nothing():
    code = "import sys, eqpool; print(sorted({m.split('.')[0] for m in sys.modules} & {'jax', 'numpy', 'optax'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_when_it_is_asked_for():
    code = (
        "import eqpool\n"
        "assert all(getattr(eqpool, name) is not None for name in eqpool.__all__)\n"
        "assert set(eqpool.__all__) <= set(dir(eqpool))\n"
        "from eqpool.losses import mmd as module\n"
        "assert eqpool.mmd is module.mmd is eqpool.losses.mmd.mmd\n"
        "try: eqpool.nothing\n"
        "except AttributeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'eqpool' has no attribute 'nothing'\n"


def config_of(**data: str):
    config = default_config()
    config.data.update(data)
    return from_config_dict(config)


def test_what_is_there_passes(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    given_paths.check_config_paths(config_of(participants="table.tsv", root="run", raw_dir="."))
    given_paths.check_config_paths(config_of(participants="~/table.tsv", root="~"))
    given_paths.check_run(RunFolder(place / "run"))
    for new in ("new", "run", "run/new", "./new", "run/../new", "new/..", "new/../other"):
        given_paths.check_new_folder(pathlib.Path(new), new)
    given_paths.check_workdir(pathlib.Path("a/b/c"), "--workdir=a/b/c")  # a run makes the folders above it


def test_a_key_that_is_not_given_is_not_looked_at(place, monkeypatch):
    monkeypatch.chdir(place)
    given_paths.check_config_paths(config_of(participants="table.tsv"))
    with pytest.raises(InputError, match=r'config.data.participants = "~/no.tsv": no such file'):
        given_paths.check_config_paths(config_of(participants="~/no.tsv"))
