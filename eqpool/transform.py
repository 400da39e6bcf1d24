"""The door of `python -m eqpool.transform`; `eqpool.commands.transform` is the command."""

import sys

from eqpool.commands.transform import main, transform

__all__ = ["main", "transform"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
