"""Examines the dependence of the first row of Table 1 of Robinson et al. 2020 on details that the paper leaves open.

The source's classifier is tested without any harmonisation on held-out digits. The digits are thickened and sheared in
several ways, because the paper does not give the thickness, the direction of the shear and its fixed point. The
classifier is tested after several lengths of training, because the paper does not give that either.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from eqpool.config import RunConfig, to_dict
from eqpool.data.cohort import Cohort
from eqpool.data.load import load_cohort
from eqpool.data.shape import DataShape
from eqpool.data.sources.morpho_digits import DOMAINS, Domain, random_digits, sheared
from eqpool.data.sources.morpho_mnist import read_mnist
from eqpool.engine.compilation import use_compilation_cache
from eqpool.engine.image_training import forward_on_images, train_on_images
from eqpool.engine.session import Session
from eqpool.methods.istn import Istn, rows_of_sides
from eqpool.objectives.task import make_task
from eqpool.storage.run_folder import RunFolder
from experiments.flags import add_folder, count
from experiments.provenance import config_hash, made_here, written_by
from experiments.registry import Experiment
from experiments.runner import Task, config_of, stored
from experiments.tables import Measured, table

_THICKNESSES_PIXELS = (3.0, 3.5, 4.0, 4.5)  # in addition to the paper's 5
_EPOCHS = (5, 20, 60)
# (name, factor of the angle (negative leans right), fixed row of the 28, order of the splines)
_SHEARS = (
    ("about the middle, leaning right", -1.0, 13.5, 1),
    ("about the middle, leaning left", 1.0, 13.5, 1),
    ("about the upper left corner, leaning right", -1.0, 0.0, 1),
    ("about the upper left corner, leaning left", 1.0, 0.0, 1),
    ("about the middle, leaning right, nearest pixel", -1.0, 13.5, 0),
    ("about the middle, leaning right, by 40 to 50 degrees", -2.0, 13.5, 1),
)
_PAPER = {"thick": "41.2", "slanted": "45.7", "thick_slanted": "32.8"}


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    add_folder(parser, "--raw_dir", "folder with MNIST's image files, instead of downloading them")
    parser.add_argument("--digits", type=count, default=8000, help="training digits, half of them the source's")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Trains the classifiers and tests them on every kind of digit. Results of earlier calls are read."""
    setting = {"data.raw_dir": str(options.raw_dir or ""), "data.train_digits": options.digits}
    setting |= {"data.target_domain": "slanted", "cache_dir": str(options.runs / "cache")}
    config = config_of(Task("morpho_mnist", "", setting, options.runs))
    cache = use_compilation_cache(config, RunFolder(options.runs))
    cohort = load_cohort(config.data, cache)
    kinds = dict(_kinds_of_digits(config, cohort, cache))
    shares, commits = [], set()
    for epochs in _EPOCHS:
        path = options.runs / experiment.name / f"{config_hash(config)}_{epochs}.npz"

        def judge(epochs: int = epochs) -> dict[str, np.ndarray]:
            return {name: np.array(share) for name, share in _accuracies(config, cohort, kinds, epochs).items()}

        found = stored(path, judge)
        commits.add(str(found.pop("commit")))
        shares.append({name: float(share) for name, share in found.items()})
    content = {"digits": options.digits, "tested": int(np.sum((cohort.site == 0) & (cohort.split == "test")))}
    content |= {"rows": [{"epochs": epochs, "accuracy": share} for epochs, share in zip(_EPOCHS, shares, strict=True)]}
    return Measured(content, [made_here(to_dict(config) | {"task_epochs": _EPOCHS}, config.seed, commits)])


def _kinds_of_digits(config: RunConfig, cohort: Cohort, cache: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, images) for every kind of digit.

    The images (N, 28, 28) in [-1, 1] are the source's held-out digits, with the same diseases for every kind.
    """
    rows = np.flatnonzero((cohort.site == 0) & (cohort.split == "test"))
    indices = np.array([int(name.removeprefix("test-")) for name in cohort.participant_id[rows]])
    digits = read_mnist(config.data.raw_dir, cache)["test"][indices]

    def drawn(domain: Domain) -> np.ndarray:
        images, target = random_digits(digits, indices, "test", domain, config.data.split_seed)
        assert np.array_equal(target, cohort.target[rows])
        return images / np.float32(127.5) - 1

    for domain in DOMAINS.values():
        yield domain.name, drawn(domain)
    for thickness in _THICKNESSES_PIXELS:
        yield f"{thickness:g} pixels thick", drawn(dataclasses.replace(DOMAINS["thick"], thickness_pixels=thickness))
    degrees = np.random.default_rng(config.seed).uniform(*DOMAINS["slanted"].slant_degrees, len(rows))
    for name in ("thin", "thick"):
        upright = drawn(DOMAINS[name])
        for shear, times, fixed_row, order in _SHEARS:
            slopes = np.tan(np.radians(times * degrees))
            leaning = [sheared(*one, fixed_row=fixed_row, order=order) for one in zip(upright, slopes, strict=True)]
            yield f"{name}, sheared {shear}", np.stack(leaning)


def _accuracies(config: RunConfig, cohort: Cohort, kinds: dict[str, np.ndarray], epochs: int) -> dict[str, float]:
    """Returns the accuracy (%) of the source's classifier after its last epoch on each kind of digits."""
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, epochs=epochs, patience=0))
    session, rows = Session.start(config), rows_of_sides(config, cohort)
    columns = Istn().scaling(config, cohort).columns(cohort) | {"inputs": np.asarray(cohort.inputs)}
    task = make_task(config, DataShape.of(cohort))
    state = train_on_images(session, task, columns, rows["source", "train"], rows["source", "validation"])
    target = cohort.target[rows["source", "test"]]

    def share(images: np.ndarray) -> float:
        predicted = forward_on_images(session, task, state.variables, {"inputs": images})["prediction"]
        return float(100 * np.mean(predicted.argmax(axis=1) == target))

    return {name: share(images) for name, images in kinds.items()}


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table as text."""
    rows = content["rows"]
    names = rows[0]["accuracy"]
    lines = [
        written_by(experiment.name, content),
        f"Seed 0, {content['digits'] // 2} digits to learn from. Accuracy (%) of the classifier of thin, upright",
        f"digits on {content['tested']} held-out digits, after so many epochs; the paper's cells as printed. The first",
        "four rows are this project's domains.",
        "",
        *table(
            ["digits", *(f"{row['epochs']} epochs" for row in rows), "paper"],
            [
                [name.replace("_", " "), *(f"{row['accuracy'][name]:.1f}" for row in rows), _PAPER.get(name, "")]
                for name in names
            ],
        ),
    ]
    return "\n".join(lines)
