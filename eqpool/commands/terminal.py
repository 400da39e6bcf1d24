"""An orderly terminal while a command works: XLA's noise is dropped, and no line is printed into a progress bar."""

import contextlib
import logging
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from eqpool.storage.progress import beside_bars

_FILTER = str(pathlib.Path(__file__).with_name("stderr_filter.py"))
_PROGRAM = f"import runpy; runpy.run_path({_FILTER!r})['main']()"  # without site-packages, which take time to load
_PATIENCE_SECONDS = 2.0  # for the last lines; a process that still holds the pipe is left behind


@contextlib.contextmanager
def orderly_terminal() -> Iterator[None]:
    """Keeps a terminal in order. Where standard error goes to a file, it is left whole.

    What C++ writes to the file descriptor goes through `eqpool.commands.stderr_filter`. Python's own output goes to the
    terminal directly.
    """
    if not sys.stderr.isatty():
        yield
        return
    logging.getLogger("jax._src.xla_bridge").addFilter(_is_no_remark_on_gpus)
    with _filtered_descriptor(), beside_bars(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        yield


def _is_no_remark_on_gpus(record: logging.LogRecord) -> bool:
    return "GPU may be present" not in record.getMessage()


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning):
        print(f"eqpool: warning: {' '.join(str(message).split())}", file=sys.stderr)


@contextlib.contextmanager
def _filtered_descriptor() -> Iterator[None]:
    """Sends what is written to file descriptor 2 through the filter, and sys.stderr to the terminal."""
    whole, python = os.dup(2), sys.stderr
    try:
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _PROGRAM], stdin=subprocess.PIPE)
    except OSError:  # no process to spare, and noise is better than no run
        os.close(whole)
        yield
        return
    assert process.stdin is not None
    python.flush()
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    sys.stderr = os.fdopen(whole, "w", buffering=1, errors="backslashreplace")
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(whole, 2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_SECONDS)
        sys.stderr.close()
        sys.stderr = python
