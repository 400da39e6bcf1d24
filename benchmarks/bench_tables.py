"""Benchmarks of the whole protocol on German, and of EquivariantPooling.

EquivariantPooling is fitted on 1000 x 150 values, and transforms 100 000 rows.

Command: `make benchmark ARGS="-k tables"`. Run it alone and without virtual devices. The first fit includes
compilation, and its time is in the extra information. The limits are 60 s and 5 s on two cores.
"""

import numpy as np
import pytest

from benchmarks.harness import seconds, timed
from benchmarks.table_stages import Epochs
from eqpool.estimator import EquivariantPooling

ROWS, FEATURES, SITES = 1000, 150, 10


@pytest.mark.parametrize("name", ["stage_one", "stage_two"])
def test_protocol_german_one_seed(benchmark, name):
    stage = Epochs("german", name)

    def all_epochs():
        for _ in range(stage.epochs):
            stage.run()

    timed(benchmark, all_epochs, rounds=1, warm_ups=0, epochs=stage.epochs, steps=stage.steps)
    if benchmark.stats:
        milliseconds = 1000 * benchmark.stats.stats.min / (stage.epochs * stage.steps)
        benchmark.extra_info["milliseconds_a_step"] = milliseconds


def cohort():
    generator = np.random.default_rng(0)
    site, age = np.arange(ROWS) % SITES, generator.uniform(20, 80, ROWS)
    features = generator.normal(size=(ROWS, FEATURES)) + age[:, None] / 30 + 0.5 * site[:, None]
    return features, generator.integers(0, 2, ROWS), site.astype(str), age


def fit(seed=0):
    features, target, site, age = cohort()
    return EquivariantPooling(random_state=seed).fit(features, target, site=site, covariates=age)


def test_fit(benchmark):
    first = round(seconds(fit), 1)
    sizes = {"rows": ROWS, "features": FEATURES, "sites": SITES}
    timed(benchmark, fit, rounds=1, warm_ups=0, first_seconds=first, **sizes)


@pytest.mark.parametrize("known", [True, False], ids=["site_given", "site_unknown"])
def test_transform(benchmark, known):
    pooling = fit()
    features = np.random.default_rng(1).normal(size=(100_000, FEATURES))
    site = (np.arange(len(features)) % SITES).astype(str) if known else None
    timed(benchmark, lambda: pooling.transform(features, site), rounds=2, rows=len(features), features=FEATURES)
