"""The door of `python -m eqpool`. The command is in `eqpool.commands.program`."""

import sys

from eqpool.commands.program import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
