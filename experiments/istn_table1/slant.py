"""What slant costs the source model: `python -m experiments.istn_table1.slant --workdir=RUN --raw_dir=MNIST`.

RUN is a finished run from thin digits (configs/morpho_mnist.py). Its source model judges the run's own thin test digits
as drawn, their finished images sheared about the middle and about the upper left corner, and test digits drawn with
the same strokes at other slants. Prints accuracy, and how many healthy digits are called fractured.
"""

import math
import pathlib
import sys
from collections.abc import Iterator

import jax
import numpy as np
from scipy import ndimage

from eqpool.apply.trained import read_config, selected_variables
from eqpool.commandline import complain, make_parser
from eqpool.data.morpho_digits import CLASSES, DOMAINS, Domain, random_digits
from eqpool.data.morpho_mnist import read_mnist
from eqpool.data.pipeline import load_cohort
from eqpool.errors import InputError
from eqpool.train.state import make_optimizer
from eqpool.train.task import make_task
from eqpool.workdir import cache_folder

SHEARED_DEGREES = ((10, 15), (20, 25), (30, 35), (-25, -20))
DRAWN_DEGREES = ((20, 25), (30, 35), (40, 45), (-25, -20))
DRAWN = 600
Digits = tuple[str, np.ndarray, np.ndarray]  # what they are, images (N, 28, 28) in [-1, 1], classes (N,)


def main() -> int:
    """Judges and prints; returns the exit code."""
    parser = make_parser("experiments.istn_table1.slant", __doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="a finished run from thin digits")
    parser.add_argument("--raw_dir", default="", help="folder with MNIST's image files, instead of downloading them")
    arguments = parser.parse_args()
    try:
        print("| digits | accuracy % | healthy called fractured % |\n|---|---|---|")
        for name, told, truth in _judged(arguments.workdir, arguments.raw_dir):
            healthy = told[truth == CLASSES.index("healthy")]
            fractured = np.mean(healthy == CLASSES.index("fractured"))
            print(f"| {name} | {100 * np.mean(told == truth):.1f} | {100 * fractured:.1f} |", flush=True)
    except InputError as error:
        return complain(error)
    return 0


def _judged(workdir: pathlib.Path, raw_dir: str) -> Iterator[Digits]:
    """Of each kind of digits its name, what the source model says, and the truth."""
    config = read_config(workdir)
    task = make_task(config, (28, 28), len(CLASSES))
    variables = selected_variables(config, task, workdir / "checkpoints", make_optimizer(config.task, 1))
    forward = jax.jit(lambda images: task.forward(variables, {"inputs": images})["prediction"])
    for name, images, truth in _digits(workdir, raw_dir):
        yield name, np.asarray(forward(images)).argmax(axis=1), truth


def _digits(workdir: pathlib.Path, raw_dir: str) -> Iterator[Digits]:
    config = read_config(workdir)
    cache = cache_folder(config, workdir)
    cohort = load_cohort(config.data, cache)
    thin = np.flatnonzero((cohort.site == 0) & (cohort.split == "test"))
    images, truth = cohort.inputs[thin], cohort.target[thin]
    yield cohort.site_names[0], images, truth
    for degrees in SHEARED_DEGREES:
        yield f"the same, images sheared by {degrees} about the middle", sheared(images, degrees, 13.5), truth
        yield f"the same, images sheared by {degrees} about the corner", sheared(images, degrees, 0.0), truth
    mnist = read_mnist(raw_dir, cache)["test"][:DRAWN]
    for degrees in DRAWN_DEGREES:
        domain = Domain("other", DOMAINS["thin"].thickness_pixels, degrees)
        drawn, kinds = random_digits(mnist, np.arange(len(mnist)), "test", domain, seed=0)
        yield f"drawn at {degrees}", (drawn / 127.5 - 1).astype(np.float32), kinds


def sheared(images: np.ndarray, degrees: tuple[float, float], fixed_row: float, seed: int = 0) -> np.ndarray:
    """Images (N, H, W) in [-1, 1], each sheared to the right by an angle out of `degrees`; `fixed_row` stays."""
    random = np.random.default_rng(seed)
    made = np.empty_like(images)
    for row, image in enumerate(images):
        back = np.array([[1.0, 0.0], [math.tan(math.radians(random.uniform(*degrees))), 1.0]])
        fixed = np.full(2, fixed_row)
        made[row] = ndimage.affine_transform(image, back, fixed - back @ fixed, order=1, cval=-1)
    return made


if __name__ == "__main__":
    sys.exit(main())
