"""EquivariantPooling's fit on 1000 x 150 and transform of 100 000 rows. Run it alone and without virtual devices.

Command: JAX_PLATFORMS=cpu python -m pytest benchmarks/bench_estimator.py --benchmark-enable
The first fit compiles; both fits and what the second takes are told. The bar: 60 s and 5 s on two cores.
"""

import time

import numpy as np
import pytest

from eqpool.estimator import EquivariantPooling

ROWS, FEATURES, SITES = 1000, 150, 10


def cohort():
    generator = np.random.default_rng(0)
    site, age = np.arange(ROWS) % SITES, generator.uniform(20, 80, ROWS)
    features = generator.normal(size=(ROWS, FEATURES)) + age[:, None] / 30 + 0.5 * site[:, None]
    return features, generator.integers(0, 2, ROWS), site.astype(str), age


def fit(seed=0):
    features, target, site, age = cohort()
    return EquivariantPooling(random_state=seed).fit(features, target, site=site, covariates=age)


def test_fit(benchmark):
    started = time.perf_counter()
    fit()
    benchmark.extra_info["first_with_compilation_s"] = round(time.perf_counter() - started, 1)
    benchmark.pedantic(fit, rounds=1)


@pytest.mark.parametrize("known", [True, False], ids=["site_given", "site_unknown"])
def test_transform(benchmark, known):
    pooling = fit()
    features = np.random.default_rng(1).normal(size=(100_000, FEATURES))
    site = (np.arange(len(features)) % SITES).astype(str) if known else None
    benchmark.pedantic(lambda: pooling.transform(features, site), rounds=2, warmup_rounds=1)
