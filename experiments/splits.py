"""Measures on the simulated volumes of several random splits, without training, and the flags for them."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from eqpool.config import DataConfig, RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.load import load_cohort
from experiments.flags import count
from experiments.provenance import made_here
from experiments.tables import Measured


def add_split_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --config, --splits and --fraction, which `measure_splits` reads."""
    parser.add_argument("--config", default="adni", choices=("adni", "adcp"), help="which simulated cohort")
    parser.add_argument("--splits", type=count, default=3, help="number of random splits")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of each site that is simulated")


def measure_splits(
    options: argparse.Namespace, measure: Callable[[Cohort], Iterable[dict[str, Any]]], **facts: Any
) -> Measured:
    """Measures the cohort of every split.

    Args:
      options: values of the flags.
      measure: returns the rows of the results for one split's cohort.
      facts: further content of the JSON, beside the flags and the rows.
    """
    rows, made = [], []
    for split in range(options.splits):
        data = DataConfig(dataset=options.config, split_seed=split, simulated_fraction=options.fraction)
        cohort = load_cohort(data, options.runs / "cache")
        rows += [{"split": split} | row for row in measure(cohort)]
        made.append(made_here(RunConfig(data=data), seed=0))
    content = {"config": options.config, "fraction": options.fraction, **facts, "rows": rows}
    return Measured(content, made, f"_{options.config}")
