"""Compares settings of a table's config by cross-validation on its training and validation rows, never on test rows.

Each --set is a comma-separated list of config keys. An empty one is the unchanged config. Each fold in turn is held out
from training, and a sixth of the remaining rows is used for validation. The table shows the held-out accuracy with its
standard error over the folds, the balanced accuracy and AUC with which a logistic regression and boosted trees predict
the site of held-out rows from Phi, the same from covariates and target alone (the site floor), and the equivariance
error. Rows of an earlier table stay in it.
"""

import argparse
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.fingerprint import data_hash
from eqpool.data.load import load_cohort
from eqpool.engine.session import Session
from eqpool.evaluate.boosted_trees import boosted_trees
from eqpool.evaluate.probes import logistic_regression, site_floor_features
from eqpool.losses.equivariance import equivariance_error
from eqpool.methods.latent import train_latents
from eqpool.objectives.stage_one import covariate_generators
from experiments.flags import add_folder, parse_settings, whole_numbers
from experiments.provenance import ROOT, config_hash, made_here, written_by
from experiments.registry import Experiment
from experiments.runner import Task, config_of, stored
from experiments.tables import Measured, joined, results_path, table

_FOLDS = 5
_PROBES = {
    "logistic": logistic_regression,
    "trees": lambda: boosted_trees(max_iter=60, max_leaf_nodes=8),
}
_SOURCES = ("phi", "floor")  # what the probes read


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    tables = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    parser.add_argument("--config", required=True, choices=tables, help="name of a table's config in configs/")
    parser.add_argument("--method", default="ours", help="ours or a baseline")
    add_folder(parser, "--raw_dir", "config.data.raw_dir")
    parser.add_argument("--split", default="raw", help="raw or published")
    parser.add_argument("--seeds", type=whole_numbers, default="0", help="comma-separated; every fold is run with each")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE,KEY=VALUE...")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Trains every setting on every fold. Results of folds that were trained before are read.

    They are identified by the config and the data.
    """
    rows = [_row(experiment, options, text) for text in options.set or [""]]
    variant = f"_{options.config}"
    path = results_path(options.output, experiment, variant)
    facts = {"folds": _FOLDS, "probes": list(_PROBES)}
    rows = joined(path, facts, rows, ["setting", "method", "split"])
    return Measured(facts | {"rows": rows}, [made for row in rows for made in row["made"]], variant)


def _row(experiment: Experiment, options: argparse.Namespace, text: str) -> dict[str, Any]:
    setting = parse_settings(part for part in text.split(",") if part)
    own = {"method": options.method, "data.split": options.split, "data.raw_dir": str(options.raw_dir or "")}
    config = config_of(Task(options.config, "", own | {"devices": 1} | setting, options.runs))
    cohort = load_cohort(config.data, options.runs / "cache")
    cohort = cohort.take(np.flatnonzero(cohort.split != "test"))
    seeded = [dataclasses.replace(config, seed=seed) for seed in options.seeds]
    found, sites = [], []
    for one in seeded:
        for number, fold in enumerate(folds(cohort)):
            name = f"{config_hash(one)}_{data_hash(fold)[:16]}_{number}_floor.npz"
            found.append(stored(options.runs / experiment.name / name, functools.partial(_held_out, one, fold)))
            sites.append(fold.site[fold.rows("test")])
    commits = {str(fold["commit"]) for fold in found}
    row = {"setting": text, "method": options.method, "split": options.split, "seeds": options.seeds}
    row |= {"accuracy": [100 * float(fold["accuracy"]) for fold in found]}
    if "equivariance_error" in found[0]:
        row |= {"equivariance_error": [float(fold["equivariance_error"]) for fold in found]}
    row |= _site_scores(found, np.concatenate(sites))
    return row | {"made": [made_here(one, one.seed, commits) for one in seeded]}


def _site_scores(found: list[dict[str, np.ndarray]], site: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns the AUC and balanced accuracy of each probe over all folds, from Phi and from covariates and target."""
    scores: dict[str, dict[str, float]] = {}
    for source in _SOURCES:
        of_probe = {probe: np.concatenate([fold[f"{source}_{probe}"] for fold in found]) for probe in _PROBES}
        scores[f"{source}_site_auc"] = {name: float(roc_auc_score(site, score)) for name, score in of_probe.items()}
        scores[f"{source}_site_balanced_accuracy"] = {
            name: float(balanced_accuracy_score(site == site.max(), score > 0.5)) for name, score in of_probe.items()
        }
    return scores


def folds(cohort: Cohort) -> Iterator[Cohort]:
    """Yields the cohort once per fold, with that fold as its test split. Folds are balanced by site and target."""
    strata = cohort.site * (cohort.target.max() + 1) + cohort.target
    dealt = StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(strata, strata)
    for number, (rest, test) in enumerate(dealt):
        split = np.full(len(strata), "train", "<U10")
        split[test] = "test"
        split[np.random.default_rng(number).permutation(rest)[: len(rest) // 6]] = "validation"
        yield dataclasses.replace(cohort, split=split)


def _held_out(config: RunConfig, cohort: Cohort) -> dict[str, np.ndarray]:
    """Trains on the cohort. Returns accuracy, equivariance error and probabilities of the last site of its test rows.

    Each probe's probabilities are given from Phi and from covariates and target.
    """
    session, scaling = Session.start(config), Scaling.fit(cohort)
    made, _ = train_latents(session, cohort, scaling)
    train, test = cohort.rows("train"), cohort.rows("test")
    result = {"accuracy": np.mean(made.prediction[test].argmax(axis=1) == cohort.target[test])}
    if made.tau is not None:
        covariate = scaling.covariates.apply(cohort.covariates[test])
        generators = covariate_generators(config.model, covariate.shape[1])
        error = equivariance_error(made.tau[test], covariate, generator=generators, group_map=config.model.group_map)
        result["equivariance_error"] = np.asarray(error)
    floor = site_floor_features(cohort.covariates, cohort.target, cohort.target_classes)
    for source, features in zip(_SOURCES, (made.phi, floor), strict=True):
        for name, probe in _PROBES.items():
            fitted = probe().fit(features[train], cohort.site[train])
            result[f"{source}_{name}"] = fitted.predict_proba(features[test])[:, -1]
    return result


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table as text, with a row for each setting."""
    rows = []
    for row in content["rows"]:
        seeds = ", ".join(map(str, row["seeds"]))
        cells = [row["method"], row["setting"] or "default", row["split"], seeds, _mean_and_error(row["accuracy"], 1)]
        for source in _SOURCES:
            for score in ("balanced_accuracy", "auc"):
                of_probe = row[f"{source}_site_{score}"]
                cells.append(" / ".join(f"{of_probe[name]:.3f}" for name in _PROBES))
        rows.append([*cells, _mean_and_error(row.get("equivariance_error"), 2)])
    header = ["method", "setting", "split", "seeds", "accuracy % ↑", "site from Phi ↓", "its AUC ↓"]
    header += ["site floor", "its AUC", "equivariance error ↓"]
    lines = [
        written_by(experiment.name, content),
        f"{content['folds']} folds; the standard error over folds and seeds in brackets. Site: balanced accuracy and "
        f"AUC of {' / '.join(_PROBES)}.",
        "",
        *table(header, rows),
    ]
    return "\n".join(lines)


def _mean_and_error(values: list[float] | None, digits: int) -> str:
    if values is None:
        return ""
    return f"{np.mean(values):.{digits}f} ({np.std(values) / len(values) ** 0.5:.{digits}f})"
