"""The door of `python -m eqpool.main`; `eqpool.commands.main` is the command."""

import sys

from eqpool.commands.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
