"""Flags that several experiments share, and parsers of flag values."""

import argparse
import math
import os
from collections.abc import Callable, Iterable

from eqpool.commands.shell import path_argument, whole_number
from eqpool.errors import InputError


def add_jobs(parser: argparse.ArgumentParser, jobs: int | None = None) -> None:
    """Adds --jobs. The default is one run per core, or `jobs` for runs that use every core by themselves."""
    said = "one a core" if jobs is None else f"{jobs}: a run uses every core by itself"
    default = os.cpu_count() if jobs is None else jobs
    parser.add_argument("--jobs", type=count, default=default, help=f"runs side by side; default: {said}")


def add_set(parser: argparse.ArgumentParser) -> None:
    """Adds --set, which may be given several times."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a config key for every run")


def add_folder(parser: argparse.ArgumentParser, flag: str, help: str, required: bool = False) -> None:
    """Adds a flag for a file or folder of the user. Its value is None if it is not given."""
    parser.add_argument(flag, type=path_argument, required=required, help=help)


def count(text: str) -> int:
    """Parses a whole number of at least 1."""
    return whole_number(text, 1)


def count_of_parts(text: str) -> int:
    """Parses a whole number of at least 2, such as a number of folds."""
    return whole_number(str(count(text)), 2)


def count_of_folds(text: str) -> int:
    """Parses a number of folds: a whole number of at least 2, or 0 for none."""
    return 0 if text == "0" else count_of_parts(text)


def whole_numbers(text: str) -> list[int]:
    """Parses comma-separated whole numbers of at least 0."""
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f'"{text}", expected whole numbers, separated by commas')
    return [int(part) for part in text.split(",")]


def numbers(text: str) -> tuple[float, ...]:
    """Parses comma-separated numbers above 0."""
    try:
        values = tuple(float(number) for number in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f'"{text}", expected numbers above 0, separated by commas')
    return values


def some_of(known: Iterable[object]) -> Callable[[str], list[str]]:
    """Returns a parser of comma-separated names, which all have to be `known`."""
    names = [str(name) for name in known]

    def parse(text: str) -> list[str]:
        for name in text.split(","):
            if name not in names:
                raise argparse.ArgumentTypeError(f'{text}: "{name}", expected some of {", ".join(names)}')
        return text.split(",")

    return parse


def parse_settings(texts: Iterable[str]) -> dict[str, str]:
    """Parses the values of --set. Returns config keys and the texts of their values, which `config_of` interprets.

    Raises:
      InputError: a text without "=".
    """
    settings = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"--set={text}: expected KEY=VALUE, such as stage_one.epochs=3")
        settings[key] = value
    return settings
