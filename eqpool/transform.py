"""The command `python -m eqpool.transform`: applies a finished run to new participants. See `eqpool.commands.transform`."""

import sys

from eqpool.commands.transform import main, transform

__all__ = ["main", "transform"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
