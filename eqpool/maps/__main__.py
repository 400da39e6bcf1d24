"""`python -m eqpool.maps`."""

import sys

from eqpool.maps import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
