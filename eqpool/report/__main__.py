"""The command: `python -m eqpool.report --workdir=runs/adni` draws figures/ and writes report.html again."""

import argparse
import pathlib
import sys

from eqpool.errors import InputError
from eqpool.report.page import write_report


def main(arguments: list[str]) -> int:
    """Writes the report of a finished run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m eqpool.report", description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder of a finished run")
    try:
        path = write_report(parser.parse_args(arguments).workdir)
    except InputError as error:
        print(f"eqpool: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
