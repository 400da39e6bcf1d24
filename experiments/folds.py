"""Settings of a table's config compared by folds within its training and validation rows; test rows are never seen.

    python -m experiments.folds --config=german --raw_dir=UCI --set=stage_one.epochs=30,stage_two.epochs=60 --set=

Each --set is a comma-separated list of config keys; an empty one is the config as it stands. Every fold in turn is held
out from training, with a sixth of the rest for validation. Said are the held-out accuracy with its standard error over
the folds, and how well a logistic regression and boosted trees tell the site of held-out rows from Phi (AUC).
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator

import jax
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eqpool import parallel
from eqpool.commandline import complain, make_parser
from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.pipeline import load_cohort
from eqpool.errors import InputError
from eqpool.run import train
from eqpool.train.stages import Session
from eqpool.workdir import MemoryLog
from experiments.runner import Task, config_of, parse_settings

FOLDS = 5
PROBES = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, class_weight="balanced")),
    "trees": lambda: HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8),
}


def main() -> None:
    """Prints a Markdown row for each setting."""
    parser = make_parser("experiments.folds", __doc__)
    parser.add_argument("--config", required=True, help="name of a table's config in configs/")
    parser.add_argument("--method", default="ours", help="ours or a baseline")
    parser.add_argument("--raw_dir", default="", help="config.data.raw_dir")
    parser.add_argument("--split", default="raw", help="raw or published")
    parser.add_argument("--seeds", default="0", help="comma-separated; every fold is run with each")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE,KEY=VALUE...")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"), help="where downloads are kept")
    options = parser.parse_args()
    try:
        print("| setting | accuracy % | " + " | ".join(f"site AUC, {name}" for name in PROBES) + " |")
        print("|---" * (2 + len(PROBES)) + "|", flush=True)
        for text in options.set or [""]:
            print(_row(options, text), flush=True)
    except InputError as error:
        sys.exit(complain(error))


def _row(options: argparse.Namespace, text: str) -> str:
    setting = parse_settings(part for part in text.split(",") if part)
    own = {"method": options.method, "data.split": options.split, "data.raw_dir": options.raw_dir, "devices": 1}
    config = config_of(Task(options.config, "", own | setting, options.runs))
    cohort = load_cohort(config.data, options.runs / "cache")
    cohort = cohort.take(np.flatnonzero(cohort.split != "test"))
    correct: list[float] = []
    sites: list[np.ndarray] = []
    told: dict[str, list[np.ndarray]] = {name: [] for name in PROBES}
    for seed in map(int, options.seeds.split(",")):
        for fold in folds(cohort):
            accuracy, scores = held_out(dataclasses.replace(config, seed=seed), fold)
            correct.append(100 * accuracy)
            sites.append(fold.site[fold.rows("test")])
            for name, score in scores.items():
                told[name].append(score)
    site = np.concatenate(sites)
    aucs = " | ".join(f"{roc_auc_score(site, np.concatenate(scores)):.3f}" for scores in told.values())
    return f"| {text or 'default'} | {np.mean(correct):.1f} ({np.std(correct) / len(correct) ** 0.5:.1f}) | {aucs} |"


def folds(cohort: Cohort) -> Iterator[Cohort]:
    """The cohort `FOLDS` times, another part of it as its test split, balanced by site and target."""
    strata = cohort.site * (cohort.target.max() + 1) + cohort.target
    dealt = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(strata, strata)
    for number, (rest, test) in enumerate(dealt):
        split = np.full(len(strata), "train", "<U10")
        split[test] = "test"
        split[np.random.default_rng(number).permutation(rest)[: len(rest) // 6]] = "validation"
        yield dataclasses.replace(cohort, split=split)


def held_out(config: RunConfig, cohort: Cohort) -> tuple[float, dict[str, np.ndarray]]:
    """Trains; returns the accuracy on test rows, and each probe's scores of the last site there."""
    session = Session(config, parallel.make_mesh(1), None, MemoryLog(), jax.random.key(config.seed))
    made, _ = train(session, cohort, Scaling.fit(cohort))
    train_rows, test = cohort.rows("train"), cohort.rows("test")
    accuracy = np.mean(made.prediction[test].argmax(axis=1) == cohort.target[test])
    fitted = {name: probe().fit(made.phi[train_rows], cohort.site[train_rows]) for name, probe in PROBES.items()}
    return float(accuracy), {name: probe.predict_proba(made.phi[test])[:, -1] for name, probe in fitted.items()}


if __name__ == "__main__":
    main()
