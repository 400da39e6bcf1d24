"""XLA's noise never reaches a terminal, errors always do, and no line is printed into a bar."""

import os
import pty
import re
import subprocess
import sys
import termios

import pytest

from eqpool.commands.stderr_filter import NoiseFilter

# As jaxlib 0.4 prints it on file descriptor 2 after two minutes.
ALARM = b"""E1128 18:46:45.300125   16308 slow_operation_alarm.cc:73]\x20
********************************
[Compiling module jit_f for CPU] Very slow compile? If you want to file a bug, run with envvar XLA_FLAGS=...
********************************
"""
ENDED = ALARM.replace(b"alarm.cc:73] ", b"alarm.cc:140] The operation took 3m1s\n")
REAL = b"E1128 18:46:45.300125   16308 cpu_client.cc:73] Execution failed: out of memory\n"


def kept(text: bytes) -> bytes:
    lines = NoiseFilter()
    return b"".join(line for line in text.splitlines(keepends=True) if lines.keeps(line))


def run_on_terminal(code: str) -> tuple[int, str]:
    """The exit code of a program, and what it writes to a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    with os.fdopen(ours, "rb") as terminal:
        try:
            while chunk := terminal.read1():
                said += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
    return process.wait(), said.decode()


def shown(said: str) -> list[str]:
    """The lines as they stand on the screen at last: what follows the last carriage return of each."""
    return [re.split("\r|\x1b\\[K", line.rstrip("\r"))[-1].rstrip() for line in said.split("\n")]


@pytest.mark.parametrize("noise", [ALARM, ENDED, ALARM + ENDED, b"2026 I cpu_feature_guard.cc:210] This binary ...\n"])
def test_noise_is_dropped_and_what_stands_around_it_is_kept(noise):
    assert kept(b"before\n" + noise + REAL) == b"before\n" + REAL
    assert kept(REAL + noise) == REAL


def test_a_header_without_its_alarm_hides_nothing():
    header = ALARM.splitlines(keepends=True)[0]
    assert kept(header + REAL + b"\n***\n" + REAL) == REAL + b"\n***\n" + REAL
    endless = ALARM.splitlines(keepends=True)[0] + b"*" * 32 + b"\n" + b"text\n" * 70 + REAL
    assert kept(endless).endswith(b"text\n" + REAL)


def test_ordinary_asterisks_and_empty_lines_are_kept():
    text = b"*" * 32 + b"\nhello\n\n" + b"*" * 32 + b"\n"
    assert kept(text) == text


CODE = """
import logging, os, time, warnings
from eqpool.commands.shell import attempt
from eqpool.storage.progress import track
def work():
    for number in track(range(3), "Counting", unit="sheep"):
        time.sleep(0.12)
        if number == 1:
            print("a line of its own")
            warnings.warn("bad overlap")
            logging.getLogger("jax._src.xla_bridge").warning("An NVIDIA GPU may be present on this machine")
            os.write(2, {alarm!r} + {real!r})
            time.sleep(0.12)
    {end}
raise SystemExit(attempt(work, None, "goes on"))
"""


def program(end: str) -> str:
    return CODE.format(alarm=ALARM, real=REAL, end=end)


def test_a_terminal_shows_whole_lines_and_no_noise():
    code, said = run_on_terminal(program("print('the end')"))
    lines = shown(said)
    assert code == 0 and "Very slow" not in said and "NVIDIA" not in said and "****" not in said
    for line in ("a line of its own", "eqpool: warning: bad overlap", REAL.decode().strip(), "the end"):
        assert line in lines
    assert "Counting" in said and not any("Counting" in line and "own" in line for line in lines)


def test_an_error_that_ends_the_process_is_shown():
    code, said = run_on_terminal(program("os.write(2, b'F1128 check.cc:1] Check failed: x\\n'); os.abort()"))
    assert code != 0 and "F1128 check.cc:1] Check failed: x" in shown(said)


def test_a_traceback_and_a_line_on_bad_input_are_shown_below_the_bar():
    code, said = run_on_terminal(program("raise ValueError('a bug')"))
    assert code == 1 and "ValueError: a bug" in shown(said)
    stop = "from eqpool.errors import InputError\n    for one in track(range(3), 'Reading', unit='row'):\n"
    code, said = run_on_terminal(program(f"{stop}        raise InputError('row 1: bad')"))
    assert code == 2 and shown(said)[-2:] == ["eqpool: row 1: bad", ""]


def test_a_file_gets_everything():
    done = subprocess.run([sys.executable, "-c", program("pass")], capture_output=True, check=True)
    assert ALARM in done.stderr and REAL in done.stderr and done.stdout == b"a line of its own\n"
