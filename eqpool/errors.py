"""The exceptions that a command tells in one line, bad input and work that was stopped; and what a path may be."""

import errno
import pathlib
import re
import sys

LONGEST_LINE = 1500

# Full, read-only, over the quota, not permitted, too large: the user's to mend, and no bug.
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EFBIG)


class InputError(ValueError):
    """Bad input from the user: configuration, table, volume or work directory.

    The message is one line that names the file, row, column or key, what was found and what was expected.
    `eqpool.main` prints it on stderr without a traceback and exits with code 2. What was found may be anything: line
    breaks in it become spaces, and the middle of what is very long is left out.
    """

    def __init__(self, message: object = ""):
        line = " ".join(str(message).splitlines())
        if len(line) > LONGEST_LINE:
            line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
        super().__init__(line.encode("utf-8", "backslashreplace").decode())  # a lone surrogate cannot be printed


class Stopped(RuntimeError):
    """Work that ended before it was done, by no bug; the message says why.

    Attributes:
      exit_code: of the command that did the work.
      advice: what ends the line that the command says.
    """

    exit_code, advice = 1, ""


def to_path(text: str) -> pathlib.Path:
    """The path that a user typed, with the home folder for its `~`: a shell leaves that of --workdir=~/run as it is.

    Raises:
      InputError: `~name` of nobody here.
    """
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{text}: no home folder is known for {pathlib.Path(text).parts[0]}") from None


def check_is_path(text: str) -> None:
    """Checks that what a user typed, as a flag or a value, is not the address of a bucket.

    Paths are opened as files of this machine; `gs://...` would become a folder called `gs:`.

    Raises:
      InputError: it holds a scheme and `://`.
    """
    if re.search(r"\b[a-z][a-z0-9+.-]*://", text):
        raise InputError(f"{text}: an address, expected a path; mount the bucket and name its folder")


def complain(message: object, code: int = 2) -> int:
    """Says on stderr in one line why a command stops; returns its exit code, 2 for bad input."""
    print(f"eqpool: {message}", file=sys.stderr)
    return code
