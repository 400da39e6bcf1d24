"""Tables of known truth: how close do two pipelines' features of the same people come, by each method?

The people are those of real cohorts (the folder --cohorts, each with its participants.tsv) and generated ones. A second
pipeline with another location, scale, curve and noise in each feature (`experiments.known_truth_pairs`) measures them
again. Every training person is measured once, every held-out person by both pipelines. Methods are fitted on training
rows, and see neither age nor sex of held-out rows, except for "combat", which needs them.
"""

import argparse
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.linear_model import RidgeCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from experiments.cohorts.cohort import COHORTS, load_table
from experiments.cohorts.probes import site_probe, without_covariates
from experiments.flags import add_folder, count, some_of
from experiments.known_truth_methods import METHODS, Harmonise
from experiments.known_truth_pairs import (
    DESIGNS,
    GENERATED,
    Pairs,
    generated_people,
    make_pairs,
    people_of,
    training_rows,
)
from experiments.provenance import made_here, written_by
from experiments.registry import Experiment
from experiments.tables import Measured, mean_and_deviation, table

SCORES = {  # key -> heading of the column
    "paired_error": "paired error / raw",
    "concordance": "concordance",
    "ranks": "ranks",
    "identified": "identified",
    "site": "site, svm",
    "age_first_to_second": "age MAE, first to second",
    "age_second_to_first": "second to first",
}
Scores = dict[str, float]


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    add_folder(parser, "--cohorts", "folder with a folder a cohort; without it, generated people alone")
    names = [*COHORTS, GENERATED]
    parser.add_argument("--names", type=some_of(names), default=",".join(names), help="comma-separated")
    parser.add_argument(
        "--methods", type=some_of(METHODS), default=",".join(METHODS), help="comma-separated; raw first"
    )
    parser.add_argument("--splits", type=count, default=5)
    parser.add_argument("--seed", type=int, default=0)


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Scores every method on every cohort, design and split."""
    rows: list[dict[str, Any]] = []
    with threadpool_limits(limits=1):
        for name in options.names:
            if name != GENERATED and options.cohorts is None:
                print(f"{name}: left out, because --cohorts is not given", flush=True)
                continue
            for design in DESIGNS:
                found = scored(options.cohorts, name, design, options.methods, options.splits, options.seed)
                rows += (
                    {"cohort": name, "design": design, "method": method, "scores": found[method]} for method in found
                )
                print("\n".join(_lines(rows[-len(found) :])), flush=True)
    settings = {"splits": options.splits, "seed": options.seed}
    return Measured({"settings": settings, "rows": rows}, [made_here(settings, options.seed)])


def scored(
    cohorts: pathlib.Path | None, name: str, design: str, methods: list[str], splits: int, seed: int
) -> dict[str, list[Scores]]:
    """Returns the scores of each split, by method. Every split has another second pipeline and other assignments."""
    found: dict[str, list[Scores]] = {method: [] for method in methods}
    for split in range(splits):
        if name == GENERATED:
            people, covariates = generated_people(seed + split)
        else:
            assert cohorts is not None
            people, covariates = people_of(load_table(cohorts, name))
        pairs = make_pairs(name, people, covariates, design, splits, seed + split)
        folds = StratifiedKFold(splits, shuffle=True, random_state=seed).split(people, pairs.pipeline)
        train, test = list(folds)[split]
        raw = pairs.measured[:, test]
        for method in methods:
            harmonise = METHODS[method](pairs, train)
            found[method].append(scores(pairs, train, test, harmonise, raw))
    return found


def scores(pairs: Pairs, train: np.ndarray, test: np.ndarray, harmonise: Harmonise, raw: np.ndarray) -> Scores:
    """Returns the scores of one harmonisation.

    Args:
      pairs: people and their measurements.
      train, test: training people and held-out people.
      harmonise: maps features, pipelines and covariates of rows to harmonised features.
      raw: (2, T, F) features of the held-out people before harmonisation.
    """
    covariates = pairs.covariates
    before = harmonise(training_rows(pairs, train), pairs.pipeline[train], covariates[train])
    first, second = (harmonise(raw[which], np.full(len(test), which), covariates[test]) for which in (0, 1))
    ratios = np.sqrt(np.mean((first - second) ** 2, axis=0) / np.mean((raw[0] - raw[1]) ** 2, axis=0))
    ages = {"train": covariates[train, 0], "test": covariates[test, 0]}
    return {
        "paired_error": float(np.median(ratios)),
        "concordance": float(np.mean(_concordance(first, second))),
        "ranks": float(np.mean(_correlations(rankdata(first, axis=0), rankdata(second, axis=0)))),
        "identified": (_identified(first, second) + _identified(second, first)) / 2,
        "site": _site(before, np.concatenate([first, second]), pairs, train, test),
        "age_first_to_second": _age_error(before, second, ages, pairs.pipeline[train] == 0),
        "age_second_to_first": _age_error(before, first, ages, pairs.pipeline[train] == 1),
    }


def _concordance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns Lin's concordance correlation of each column, (F,)."""
    covariance = np.mean((first - first.mean(axis=0)) * (second - second.mean(axis=0)), axis=0)
    apart = (first.mean(axis=0) - second.mean(axis=0)) ** 2
    return 2 * covariance / (first.var(axis=0) + second.var(axis=0) + apart)


def _correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = ((one - one.mean(axis=0)) / one.std(axis=0) for one in (first, second))
    return np.mean(first * second, axis=0)


def _identified(probe: np.ndarray, gallery: np.ndarray) -> float:
    """Returns the share of the people whose nearest row of the other pipeline is their own, by correlation."""
    both = np.concatenate([probe, gallery])
    centre, scale = both.mean(axis=0), both.std(axis=0)
    found = np.corrcoef((probe - centre) / scale, (gallery - centre) / scale)[: len(probe), len(probe) :]
    return float(np.mean(found.argmax(axis=1) == np.arange(len(probe))))


def _site(before: np.ndarray, both: np.ndarray, pairs: Pairs, train: np.ndarray, test: np.ndarray) -> float:
    """Returns the balanced accuracy of a probe that is trained on training rows, age and sex regressed out."""
    features, fitted = np.concatenate([before, both]), np.arange(len(before))
    covariates = pairs.covariates[np.concatenate([train, test, test])]
    residual = without_covariates(features, covariates, fitted)
    probe = site_probe("svm").fit(residual[fitted], pairs.pipeline[train])
    return float(balanced_accuracy_score(np.repeat([0, 1], len(test)), probe.predict(residual[len(before) :])))


def _age_error(before: np.ndarray, rows: np.ndarray, ages: dict[str, np.ndarray], here: np.ndarray) -> float:
    """Returns the mean absolute error of age in rows of one pipeline, by ridge regression trained on the other's."""
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 4, 13))).fit(before[here], ages["train"][here])
    return float(np.mean(np.abs(model.predict(rows) - ages["test"])))


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns one table for each cohort and design, means (standard deviations) over the splits."""
    settings = ", ".join(f"{key} {value}" for key, value in content["settings"].items())
    lines = [written_by(experiment.name, content, {}), f"{settings}. Means (standard deviations) over the splits."]
    groups = dict.fromkeys((row["cohort"], row["design"]) for row in content["rows"])
    for group in groups:
        lines += ["", *_lines([row for row in content["rows"] if (row["cohort"], row["design"]) == group])]
    return "\n".join(lines)


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yields the heading and the table of one cohort and design."""
    yield f"{rows[0]['cohort']}, {DESIGNS[rows[0]['design']]}."
    yield ""
    cells = [[row["method"], *(_cell(row["scores"], key) for key in SCORES)] for row in rows]
    yield from table(["method", *SCORES.values()], cells)


def _cell(splits: list[Scores], key: str) -> str:
    return mean_and_deviation([one[key] for one in splits], 2 if key.startswith("age") else 3)
