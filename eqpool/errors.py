"""Exceptions that a command reports in one line, for bad input and stopped work, and checks of a user's paths."""

import errno
import pathlib
import re
import sys
from collections.abc import Sequence

LONGEST_LINE = 1500

# Errors that the user can fix: a disk that is full, read-only or over quota, no permission, and files that are too
# large.
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EFBIG)


class InputError(ValueError):
    """Bad input from the user: configuration, table, volume or work directory.

    The message is one line that names the file, row, column or key, the value found and the value expected.
    `eqpool.main` prints it on stderr without a traceback and exits with code 2. Line breaks in the message become
    spaces, and a very long message loses its middle.
    """

    def __init__(self, message: object = ""):
        line = " ".join(str(message).splitlines())
        if len(line) > LONGEST_LINE:
            line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
        super().__init__(line.encode("utf-8", "backslashreplace").decode())  # a lone surrogate cannot be printed


class Stopped(RuntimeError):
    """Work that ended early without a bug. The message gives the reason.

    Attributes:
      exit_code: exit code of the command that did the work.
      advice: end of the line that the command prints.
    """

    exit_code, advice = 1, ""


def to_path(text: str) -> pathlib.Path:
    """Converts a path typed by the user, and expands `~`, which a shell leaves as it is in --workdir=~/run.

    Raises:
      InputError: `~name` is no known user.
    """
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{text}: no home folder is known for {pathlib.Path(text).parts[0]}") from None


def check_is_path(text: str) -> None:
    """Checks that a flag or value typed by the user is not the address of a bucket.

    Paths are opened as files of this machine, and `gs://...` would become a folder named `gs:`.

    Raises:
      InputError: the text contains a scheme and `://`.
    """
    if re.search(r"\b[a-z][a-z0-9+.-]*://", text):
        raise InputError(f"{text}: an address, expected a path; mount the bucket and name its folder")


def listed(names: Sequence[str], most: int = 5) -> str:
    """Returns the first `most` names for a message, separated by commas, with "..." in place of the rest."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def complain(message: object, code: int = 2) -> int:
    """Prints in one line on stderr why a command stops, and returns its exit code, 2 for bad input."""
    print(f"eqpool: {message}", file=sys.stderr)
    return code
