"""`python -m eqpool.transform`."""

import sys

from eqpool.transform import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
