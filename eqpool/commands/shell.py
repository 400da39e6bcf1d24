"""Shared parts of the commands: help from a module's docstring, errors in one line, and output into a closed pipe."""

import argparse
import difflib
import os
import pathlib
import sys
from collections.abc import Callable
from typing import NoReturn

from eqpool.commands.terminal import orderly_terminal
from eqpool.errors import DISK_ERRORS, InputError, Stopped, check_is_path, complain, to_path
from eqpool.storage.progress import closing_bars

GOES_ON = "goes on from the last checkpoint"  # what the same command does after a stop during training


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line, with the nearest flag."""

    def parse_args(self, arguments=None, namespace=None):  # type: ignore[override]
        flags = [flag for action in self._actions for flag in action.option_strings]
        for argument in sys.argv[1:] if arguments is None else arguments:
            try:
                check_is_path(argument)
            except InputError as error:
                self.error(str(error))
            name = argument.split("=")[0]
            if name.startswith("--") and name not in flags:  # checked before missing arguments are reported
                nearest = difflib.get_close_matches(name, flags, n=1)
                self.error(f"{name}: no such flag{f'; did you mean {nearest[0]}?' if nearest else ''}")
        return super().parse_args(arguments, namespace)

    def error(self, message: str) -> NoReturn:
        print(f"eqpool: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def make_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Makes a parser of `command`, such as `eqpool maps` or `python -m a.b`, that shows `description` unchanged."""
    return _Parser(
        prog=command,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def path_argument(text: str) -> pathlib.Path:
    """Converts a parser's argument with `eqpool.errors.to_path`, for its `type`."""
    try:
        return to_path(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole_number(text: str, least: int = 0) -> int:
    """Converts a parser's argument to a whole number of at least `least`, for its `type`."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f'"{text}", expected a whole number of at least {least}')
    return int(text)


def attempt(work: Callable[[], object], folder: pathlib.Path, again: str) -> int:
    """Runs a command's work and returns its exit code. If it ends early, one line on stderr gives the reason.

    The code is 0 on success, 2 for bad input and a full disk, 130 for control-C, and the code of
    `eqpool.errors.Stopped`. Any other exception is a bug and propagates.

    Args:
      work: function without arguments. Its result is ignored.
      folder: output folder, for errors that name no file.
      again: behaviour of the same command after control-C, such as "goes on from the last checkpoint".
    """
    with orderly_terminal():
        return _attempt(work, folder, again)


def _attempt(work: Callable[[], object], folder: pathlib.Path, again: str) -> int:
    try:
        with closing_bars():
            work()
    except InputError as error:
        return complain(error)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        return complain(f"{error.filename or folder}: {error.strerror}; nothing that was finished is lost")
    except Stopped as error:
        return complain(f"{error}{error.advice}", error.exit_code)
    except KeyboardInterrupt:
        return complain(f"interrupted; the same command {again}", 130)
    return 0


def show(text: str) -> None:
    """Prints `text`, and ignores a closed pipe, as in `--list | head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise the flush at exit fails too
