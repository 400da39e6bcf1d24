"""The door of `python -m eqpool.preflight`. The command is in `eqpool.commands.preflight`."""

import sys

from eqpool.commands.preflight import main, preflight

__all__ = ["main", "preflight"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
