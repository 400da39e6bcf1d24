"""The command `python -m eqpool.main`: trains and evaluates one run. See `eqpool.commands.main`."""

import sys

from eqpool.commands.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
