"""Copies standard input to standard error without XLA's noise, as a program of its own that imports nothing of eqpool.

It is another process because C++ writes the reason for a crash just before its process ends: whatever is in the pipe
then is still passed on. Dropped are the alarm about slow compilations, which XLA logs as an error between two lines of
asterisks, and remarks of one line about the processor and drivers.
"""

import os
import re
import select
import signal

_ALARM = re.compile(rb"slow_operation_alarm\.cc:\d+\]")
_ASTERISKS = re.compile(rb"^\*{8,}\s*$")
_REMARKS = re.compile(
    rb"cpu_feature_guard|An NVIDIA GPU may be present|All log messages before absl::InitializeLog"
    rb"|Unable to register cu(DNN|BLAS|FFT) factory|oneDNN custom operations are on"
)
_LONGEST_ALARM = 60  # lines between the asterisks; more are no alarm
_CLEAR_LINE = b"\r\x1b[K"  # takes away a progress bar, which is drawn again below
_PATIENCE_SECONDS = 0.2  # after which a line without an end is passed on, such as a question


class NoiseFilter:
    """Drops the lines of XLA's noise, one line after the other."""

    def __init__(self) -> None:
        self._expects_asterisks = False
        self._inside = 0  # lines left of an alarm

    def keeps(self, line: bytes) -> bool:
        """Returns whether a line is passed on."""
        if self._inside:
            self._inside = 0 if _ASTERISKS.match(line) else self._inside - 1
            return False
        if self._expects_asterisks:
            if not line.strip():
                return False
            self._expects_asterisks = False
            if _ASTERISKS.match(line):
                self._inside = _LONGEST_ALARM
                return False
        if _ALARM.search(line):
            self._expects_asterisks = True
            return False
        return not _REMARKS.search(line)


def main() -> None:
    """Copies until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # control-C is for the program whose errors these are
    lines, held = NoiseFilter(), b""
    while True:
        ready = not held or select.select([0], [], [], _PATIENCE_SECONDS)[0]
        chunk = os.read(0, 65536) if ready else b""
        if ready and not chunk:
            break
        *whole, held = (held + chunk).split(b"\n")
        kept = b"".join(line + b"\n" for line in whole if lines.keeps(line))
        _write(_CLEAR_LINE + kept if kept else b"")
        if not ready:
            _write(held)
            held = b""
    if held and lines.keeps(held):
        _write(held)


def _write(text: bytes) -> None:
    while text:
        text = text[os.write(2, text) :]
