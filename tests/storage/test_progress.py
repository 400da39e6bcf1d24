"""Bars with the time left on a terminal, and nothing where the output goes to a file."""

import os
import pty
import subprocess
import sys
import termios

import pytest

LOOP = """
import time
from eqpool.storage.progress import track
for _ in track(range(3), 'Counting', unit='sheep'):
    time.sleep(0.2)
"""


def run_on_terminal(code: str) -> str:
    """What a program writes to a terminal's standard error."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))  # a new one has no columns
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, stdout=subprocess.PIPE, check=True)
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        said = b""
        try:
            while chunk := terminal.read1():
                said += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
    assert done.stdout == b""
    return said.decode()


def test_a_terminal_sees_label_count_and_time_left():
    said = run_on_terminal(LOOP)
    assert "Counting" in said and "2/3" in said and "sheep" in said and "<00:00" in said


def test_a_bar_that_is_not_wanted_is_not_drawn():
    assert run_on_terminal(LOOP.replace("unit=", "wanted=False, unit=")) == ""


@pytest.mark.parametrize("leave", [True, False])
def test_a_file_sees_nothing(leave):
    code = LOOP.replace("unit=", f"leave={leave}, unit=")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout == ""


def test_items_pass_through_unchanged():
    from eqpool.storage.progress import track

    assert list(track((letter for letter in "abc"), "Letters", unit="letter", total=3)) == ["a", "b", "c"]
