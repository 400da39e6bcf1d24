"""What a run says where a metric is not defined."""

import pathlib

import numpy as np

from eqpool.data.cohort import Scaling
from eqpool.evaluate.distances import distance_metrics
from eqpool.evaluate.evaluation import equivariance_metrics
from eqpool.evaluate.outputs import Embeddings, only_finite
from eqpool.evaluate.two_sample import TwoSampleTest
from eqpool.geometry import so
from eqpool.report.summary import describe_results
from eqpool.report.verdicts import read_metrics
from tests.test_metrics_documented import ROWS, cohort

GENERATORS = np.asarray(so.generator(4, rotation_range=1.0))[None]


def embeddings() -> Embeddings:
    generator = np.random.default_rng(1)
    latent, phi, free = generator.normal(size=(3, ROWS, 4)).astype(np.float32)
    tau = np.broadcast_to(np.eye(4, dtype=np.float32), (ROWS, 4, 4)).copy()
    return Embeddings(latent, tau, phi, free, generator.normal(size=(ROWS, 2)).astype(np.float32))


def test_a_tau_that_does_not_turn_has_no_equivariance_error_and_the_terminal_says_so():
    few = cohort(("a", "b"))
    found = only_finite(equivariance_metrics(few, Scaling.fit(few), embeddings(), GENERATORS, "expm", 0))
    assert found["equivariance_error"] is None and found["equivariance_error_interval"] is None
    assert found["delta_eq_ratio_to_permuted"] is None
    results = {"simulated": True, "dataset": "few", "method": "ours", "seed": 0, "wall_seconds": 1.0, "device": "cpu"}
    text = describe_results(results | {"metrics": found}, pathlib.Path("runs/few"))
    (line,) = [line for line in text.splitlines() if "equivariance error" in line]
    assert "not defined" in line and "tau does not turn" in line


def test_a_test_that_compares_nothing_leaves_no_distance_of_zero():
    undefined = only_finite(distance_metrics("mmd", TwoSampleTest(np.float32(0), np.float32(np.nan), np.float32(0))))
    assert undefined == {"mmd": None, "mmd_p_value": None}
    (reading,) = read_metrics(undefined)
    assert reading.value == "not defined"
    defined = TwoSampleTest(np.float32(0.5), np.float32(1), np.float32(0))
    assert distance_metrics("mmd", defined) == {"mmd": 50, "mmd_p_value": 1}
