"""The door of `python -m eqpool.report`; `eqpool.commands.report` is the command."""

import sys

from eqpool.commands.report import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
