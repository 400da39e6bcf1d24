"""The command `python -m eqpool.maps`: draws statistical maps before and after pooling. See `eqpool.commands.maps`."""

import sys

from eqpool.commands.maps import main, make_maps

__all__ = ["main", "make_maps"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
