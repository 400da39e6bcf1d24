"""Copies a cohort of real T1 volumes and makes half of them look as if from another, SIMULATED scanner.

Example: python -m eqpool.commands.rescan --participants=ixi/participants.tsv --output=ixi_rescanned [--shift=age]

The images stay on their own grid. The site column becomes "<site>" or "simulated_scanner".
"""

import sys

from eqpool.commands.shell import make_parser, path_argument
from eqpool.data.sources.rescanned import rescan_cohort
from eqpool.errors import InputError, complain


def main(arguments: list[str]) -> int:
    """Parses `arguments`, writes the copy and returns the exit code."""
    parser = make_parser("python -m eqpool.commands.rescan", __doc__)
    parser.add_argument("--participants", type=path_argument, required=True, help="participants.tsv of the real cohort")
    parser.add_argument("--output", type=path_argument, required=True, help="a new folder")
    parser.add_argument("--seed", type=int, default=0, help="who is scanned again")
    parser.add_argument("--shift", default="", help="column of numbers, such as age, in which the halves are to differ")
    given = parser.parse_args(arguments)
    try:
        print(rescan_cohort(given.participants, given.output, seed=given.seed, shift=given.shift))
    except InputError as error:
        return complain(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
