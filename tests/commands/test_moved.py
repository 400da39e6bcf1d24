"""Old names of modules are the modules of the new ones, and old commands still run."""

import importlib
import subprocess
import sys

import pytest

from eqpool.commands.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_is_the_same_module(old):
    sys.modules.pop(old, None)
    new = importlib.import_module(MOVED[old])
    spec = new.__spec__
    with pytest.warns(DeprecationWarning, match=f"{old} is {MOVED[old]} now"):
        assert importlib.import_module(old) is new
    assert new.__spec__ is spec and new.__name__ == MOVED[old]


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="eqpool.data.never"):
        importlib.import_module("eqpool.data.never")


def test_an_old_command_runs():
    command = [sys.executable, "-W", "ignore", "-m", "eqpool.data.rescanned", "--help"]
    assert "simulated_scanner" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
