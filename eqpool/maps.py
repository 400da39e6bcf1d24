"""The door of `python -m eqpool.maps`; `eqpool.commands.maps` is the command."""

import sys

from eqpool.commands.maps import main, make_maps

__all__ = ["main", "make_maps"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
