"""The door of `python -m eqpool.main`. The command is in `eqpool.commands.main`."""

import sys

from eqpool.commands.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
