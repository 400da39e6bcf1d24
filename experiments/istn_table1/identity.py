"""What Table 1's first row depends on: `python -m experiments.istn_table1.identity`; writes identity.md here.

The source's classifier, without any harmonisation, on held-out digits that were thickened and sheared in ways that the
paper's text leaves open: how thick, which way, and about which point of the image. It is judged after several lengths
of training, since the paper's classifier may have been trained for longer or shorter.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from eqpool.commandline import complain, make_parser
from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.morpho_digits import DOMAINS, Domain, random_digits, sheared
from eqpool.data.morpho_mnist import read_mnist
from eqpool.data.pipeline import load_cohort
from eqpool.errors import InputError
from eqpool.files import write_text
from eqpool.harmonise import fit_scaling, rows_of_sides
from eqpool.run import made_with, use_compilation_cache
from eqpool.train.stages import Session, forward_on_images, train_on_images
from eqpool.train.task import make_task
from experiments.cells import provenance
from experiments.runner import Task, config_of, count

THICKNESSES_PIXELS = (3.0, 3.5, 4.0, 4.5)  # beside the paper's 5
EPOCHS = (5, 20, 60)
# Name; times the angle, leaning right where it is negative; the row that stays, of 28; the splines' order.
SHEARS = (
    ("about the middle, leaning right", -1.0, 13.5, 1),
    ("about the middle, leaning left", 1.0, 13.5, 1),
    ("about the upper left corner, leaning right", -1.0, 0.0, 1),
    ("about the upper left corner, leaning left", 1.0, 0.0, 1),
    ("about the middle, leaning right, nearest pixel", -1.0, 13.5, 0),
    ("about the middle, leaning right, by 40 to 50 degrees", -2.0, 13.5, 1),
)
PAPER = {"thick": "41.2", "slanted": "45.7", "thick_slanted": "32.8"}


def main() -> None:
    """Trains the classifiers, judges them on every kind of digit and writes the table."""
    parser = make_parser("experiments.istn_table1.identity", __doc__)
    parser.add_argument("--raw_dir", default="", help="folder with MNIST's image files, instead of downloading them")
    parser.add_argument("--digits", type=count, default=8000, help="training digits, half of them the source's")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"), help="where the drawn digits go")
    options = parser.parse_args()
    setting = {"data.raw_dir": options.raw_dir, "data.train_digits": options.digits, "data.target_domain": "slanted"}
    config = config_of(Task("morpho_mnist", "", setting | {"cache_dir": str(options.runs / "cache")}, options.runs))
    try:
        cache = use_compilation_cache(config, options.runs)
        cohort = load_cohort(config.data, cache)
        kinds = dict(kinds_of_digits(config, cohort, cache))
    except InputError as error:
        sys.exit(complain(error))
    shares = [accuracies(config, cohort, kinds, epochs) for epochs in EPOCHS]
    write_text(pathlib.Path(__file__).with_name("identity.md"), markdown(options.digits, cohort, shares))


def kinds_of_digits(config: RunConfig, cohort: Cohort, cache: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, the source's held-out digits drawn so), each (N, 28, 28) in [-1, 1], with the same diseases."""
    rows = np.flatnonzero((cohort.site == 0) & (cohort.split == "test"))
    indices = np.array([int(name.removeprefix("test-")) for name in cohort.participant_id[rows]])
    digits = read_mnist(config.data.raw_dir, cache)["test"][indices]

    def drawn(domain: Domain) -> np.ndarray:
        images, target = random_digits(digits, indices, "test", domain, config.data.split_seed)
        assert np.array_equal(target, cohort.target[rows])
        return images / np.float32(127.5) - 1

    for domain in DOMAINS.values():
        yield domain.name, drawn(domain)
    for thickness in THICKNESSES_PIXELS:
        yield f"{thickness:g} pixels thick", drawn(dataclasses.replace(DOMAINS["thick"], thickness_pixels=thickness))
    degrees = np.random.default_rng(config.seed).uniform(*DOMAINS["slanted"].slant_degrees, len(rows))
    for name in ("thin", "thick"):
        upright = drawn(DOMAINS[name])
        for shear, times, fixed_row, order in SHEARS:
            slopes = np.tan(np.radians(times * degrees))
            leaning = [sheared(*one, fixed_row=fixed_row, order=order) for one in zip(upright, slopes, strict=True)]
            yield f"{name}, sheared {shear}", np.stack(leaning)


def accuracies(config: RunConfig, cohort: Cohort, kinds: dict[str, np.ndarray], epochs: int) -> dict[str, float]:
    """How many % of each kind of digits the source's classifier tells right after its last epoch, not its best one."""
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, epochs=epochs, patience=0))
    session, rows = Session.start(config), rows_of_sides(config, cohort)
    columns = fit_scaling(config, cohort).columns(cohort) | {"inputs": np.asarray(cohort.inputs)}
    task = make_task(config, cohort.inputs.shape[1:], len(cohort.target_classes))
    state = train_on_images(session, task, columns, rows["source", "train"], rows["source", "validation"])
    target = cohort.target[rows["source", "test"]]

    def share(images: np.ndarray) -> float:
        told = forward_on_images(session, task, state.variables, {"inputs": images})["prediction"]
        return float(100 * np.mean(told.argmax(axis=1) == target))

    return {name: share(images) for name, images in kinds.items()}


def markdown(digits: int, cohort: Cohort, shares: list[dict[str, float]]) -> str:
    """The table as text."""
    tested = int(np.sum((cohort.site == 0) & (cohort.split == "test")))
    lines = [
        "# What the first row of Table 1 depends on",
        "",
        f"Written by `python -m experiments.istn_table1.identity` {provenance(made_with())};",
        f"seed 0, {digits // 2} digits to learn from. How many % of {tested} held-out digits the classifier of thin,",
        "upright digits tells right, after so many epochs; the paper's cells as printed. The first four are this",
        "project's domains.",
        "",
        "| digits | " + " | ".join(f"{epochs} epochs" for epochs in EPOCHS) + " | paper |",
        "|---" * (len(EPOCHS) + 2) + "|",
    ]
    for name in shares[0]:
        cells = " | ".join(f"{of_epochs[name]:.1f}" for of_epochs in shares)
        lines.append(f"| {name.replace('_', ' ')} | {cells} | {PAPER.get(name, '')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
