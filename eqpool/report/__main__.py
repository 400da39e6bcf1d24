"""Entry point of `python -m eqpool.report`. The command itself is `eqpool.commands.report`."""

import sys

from eqpool.commands.report import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
