"""Compares settings of a table's config by cross-validation on its training and validation rows, never on test rows.

Each --set is a comma-separated list of config keys. An empty one is the unchanged config. Each fold in turn is held out
from training, and a sixth of the remaining rows is used for validation. The table shows the held-out accuracy with its
standard error over the folds, and the AUC with which a logistic regression and boosted trees predict the site of
held-out rows from Phi. Rows of an earlier table stay in it.
"""

import argparse
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.fingerprint import data_hash
from eqpool.data.load import load_cohort
from eqpool.engine.session import Session
from eqpool.methods.latent import train_latents
from experiments.flags import add_folder, parse_settings, whole_numbers
from experiments.provenance import ROOT, config_hash, made_here, written_by
from experiments.registry import Experiment
from experiments.runner import Task, config_of, stored
from experiments.tables import Measured, joined, results_path, table

_FOLDS = 5
_PROBES = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, class_weight="balanced")),
    "trees": lambda: HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8),
}


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
    rows = joined(path, {"folds": _FOLDS}, rows, ["setting", "method", "split"])
    return Measured({"folds": _FOLDS, "rows": rows}, [made for row in rows for made in row["made"]], variant)


def _row(experiment: Experiment, options: argparse.Namespace, text: str) -> dict[str, Any]:
    setting = parse_settings(part for part in text.split(",") if part)
    own = {"method": options.method, "data.split": options.split, "data.raw_dir": str(options.raw_dir or "")}
    config = config_of(Task(options.config, "", own | {"devices": 1} | setting, options.runs))
    cohort = load_cohort(config.data, options.runs / "cache")
    cohort = cohort.take(np.flatnonzero(cohort.split != "test"))
    correct: list[float] = []
    commits: set[str] = set()
    sites: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {name: [] for name in _PROBES}
    seeded = [dataclasses.replace(config, seed=seed) for seed in options.seeds]
    for one in seeded:
        for number, fold in enumerate(folds(cohort)):
            name = f"{config_hash(one)}_{data_hash(fold)[:16]}_{number}.npz"
            found = stored(options.runs / experiment.name / name, functools.partial(_held_out, one, fold))
            commits.add(str(found.pop("commit")))
            correct.append(100 * float(found.pop("accuracy")))
            sites.append(fold.site[fold.rows("test")])
            for probe, score in found.items():
                scores[probe].append(score)
    site = np.concatenate(sites)
    aucs = {name: float(roc_auc_score(site, np.concatenate(score))) for name, score in scores.items()}
    row = {"setting": text, "method": options.method, "split": options.split, "seeds": options.seeds}
    made = [made_here(one, one.seed, commits) for one in seeded]
    return row | {"accuracy": correct, "site_auc": aucs, "made": made}


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
    """Trains on the cohort and returns the accuracy on test rows, and each probe's scores for the last site there."""
    session = Session.start(config)
    made, _ = train_latents(session, cohort, Scaling.fit(cohort))
    train_rows, test = cohort.rows("train"), cohort.rows("test")
    accuracy = np.mean(made.prediction[test].argmax(axis=1) == cohort.target[test])
    fitted = {name: probe().fit(made.phi[train_rows], cohort.site[train_rows]) for name, probe in _PROBES.items()}
    scores = {name: probe.predict_proba(made.phi[test])[:, -1] for name, probe in fitted.items()}
    return {"accuracy": np.asarray(accuracy)} | scores


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table as text, with a row for each setting."""
    rows = []
    for row in content["rows"]:
        correct = np.asarray(row["accuracy"])
        accuracy = f"{correct.mean():.1f} ({correct.std() / len(correct) ** 0.5:.1f})"
        aucs = [f"{row['site_auc'][name]:.3f}" for name in _PROBES]
        seeds = ", ".join(map(str, row["seeds"]))
        rows.append([row["method"], row["setting"] or "default", row["split"], seeds, accuracy, *aucs])
    header = ["method", "setting", "split", "seeds", "accuracy %", *(f"site AUC, {name}" for name in _PROBES)]
    lines = [
        written_by(experiment.name, content),
        f"{content['folds']} folds; the standard error over folds and seeds in brackets.",
        "",
        *table(header, rows),
    ]
    return "\n".join(lines)
