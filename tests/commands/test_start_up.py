"""Help, lists, refusals and the pre-flight check answer at once: what they import is what a user waits for."""

import json
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
# Runs `eqpool` with the given arguments, and prints its exit code and the modules that it has imported by its end.
RUNNER = """
import json, runpy, sys
try:
    runpy.run_module("eqpool", run_name="__main__", alter_sys=True)
except SystemExit as stopped:
    print("\\n" + json.dumps([stopped.code, sorted(sys.modules)]))
"""
SLOW = {
    "flax",
    "grain",
    "jax",
    "matplotlib",
    "nilearn",
    "optax",
    "orbax",
    "sklearn",
    "statsmodels",
    "tensorflow_datasets",
}
# Pandas reads the table of the pre-flight check.
NOT_WITHOUT_DATA = SLOW | {"nibabel", "pandas", "scipy"}


def imports(*arguments: str) -> tuple[int, set[str]]:
    """The exit code of `eqpool` and all modules that it imported, with their packages."""
    command = [sys.executable, "-c", RUNNER, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=300)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], 0),
        (["--version"], 0),
        *((([command, "--help"]), 0) for command in ("harmonise", "run", "transform", "maps", "preflight", "report")),
        (["run", "--list"], 0),
        (["run", "--config=configs/german.py", "--help"], 0),
        (["run", "--config=configs/gorman.py"], 2),
        (["run", "--config=configs/german.py", "--config.seeed=1"], 2),
        (["run", "--config=configs/german.py", "--config.stage_one.epochs=-1"], 2),
        (["rum"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_without_data_no_slow_package_is_imported(arguments, expected):
    code, modules = imports(*arguments)
    assert code == expected
    assert not modules & NOT_WITHOUT_DATA


def test_the_pre_flight_check_imports_no_slow_package(tmp_path):
    rows = [f"sub-{row}\t{'AB'[row % 2]}\t{40 + row % 31}\t{'yes' if row % 3 else 'no'}\n" for row in range(60)]
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tsite\tage\tsmoker\n" + "".join(rows))
    code, modules = imports("preflight", f"--participants={table}", "--covariates=age", "--target=smoker")
    assert code == 0 and "pandas" in modules
    assert not modules & (SLOW | {"scipy.stats"})
