"""Draws healthy Morpho-MNIST digits in each domain and prints their thickness and slant.

Example: python -m eqpool.commands.measure_digits --raw_dir=FOLDER --count=5000
"""

import pathlib
import sys

from eqpool.commands.shell import make_parser
from eqpool.data.sources.morpho_digits import DOMAINS
from eqpool.data.sources.morpho_mnist import check_count, measure_domain, read_mnist
from eqpool.errors import InputError, complain


def main(arguments: list[str]) -> int:
    """Prints a table of the measured domains and returns the exit code."""
    parser = make_parser("python -m eqpool.commands.measure_digits", __doc__)
    parser.add_argument(
        "--raw_dir", default="", help="folder with MNIST's image files; default: downloaded to runs/cache"
    )
    parser.add_argument("--count", type=int, default=5000, help="training digits to draw in each domain")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
    options = parser.parse_args(arguments)
    try:
        mnist = read_mnist(options.raw_dir, pathlib.Path("runs/cache"))
        check_count("--count", options.count, 1, mnist, "train")
    except InputError as error:
        return complain(error)
    images = mnist["train"][: options.count]
    print(f"{len(images)} healthy digits a domain, mean (standard deviation)\n")
    print("| domain | thickness, pixels | wanted | slant, degrees | wanted |\n|---|---|---|---|---|")
    for domain in DOMAINS.values():
        measured = measure_domain(images, domain, options.workers)
        thickness, slant = (f"{m:.2f} ({s:.2f})" for m, s in zip(measured.mean(0), measured.std(0), strict=True))
        low, high = domain.slant_degrees
        wanted = f"{low:g} to {high:g}" if high > low else f"{low:g}"
        print(f"| {domain.name} | {thickness} | {domain.thickness_pixels} | {slant} | {wanted} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
