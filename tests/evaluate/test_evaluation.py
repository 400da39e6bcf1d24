"""What is said of a run whose latents are no numbers: that, and nothing else."""

import dataclasses

import numpy as np
import pytest

from eqpool.config import DataConfig, EvaluateConfig
from eqpool.data.cohort import Scaling
from eqpool.data.sources.participants_folder import load_design
from eqpool.evaluate.evaluation import evaluate
from eqpool.evaluate.outputs import Embeddings, non_finite_rows, only_finite
from tests.data.preflight.test_findings import sound


@pytest.fixture
def embeddings() -> Embeddings:
    generator = np.random.default_rng(0)
    tau = np.repeat(np.eye(3, dtype=np.float32)[None], 60, axis=0)
    vectors = (generator.normal(size=(60, 3)).astype(np.float32) for _ in range(3))
    latent, phi, covariate_free = vectors
    return Embeddings(latent, tau, phi, covariate_free, np.zeros((60, 2), np.float32))


@pytest.mark.parametrize("name", ["latent", "tau", "phi", "covariate_free", "prediction"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_with_a_value_that_is_not_finite_are_counted(embeddings, name, value):
    assert non_finite_rows(embeddings) == 0
    spoilt = getattr(embeddings, name).copy()
    spoilt[[3, 7], ..., 1] = value
    spoilt[7, ..., 0] = value
    assert non_finite_rows(dataclasses.replace(embeddings, **{name: spoilt})) == 2


def test_a_baseline_without_tau_is_counted_too(embeddings):
    assert non_finite_rows(dataclasses.replace(embeddings, tau=None, covariate_free=None)) == 0


def test_nothing_else_is_measured_then(embeddings, tmp_path):
    sound().to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    cohort = load_design(DataConfig(participants=str(tmp_path / "participants.tsv")))
    phi = embeddings.phi.copy()
    phi[int(cohort.rows("train")[0]), 0] = np.nan  # a training row: every probe is fitted on it
    spoilt = dataclasses.replace(embeddings, phi=phi)
    metrics = evaluate(cohort, Scaling.fit(cohort), spoilt, np.zeros((1, 3, 3)), "expm", EvaluateConfig(), 0)
    assert metrics == {"non_finite_rows": 1}


def test_what_json_lacks_is_none():
    values = {"nan": float("nan"), "inf": float("inf"), "number": 1.5, "name": "mlp", "interval": (0.1, 0.2)}
    values |= {"wide": (0.1, float("inf")), "missing": None}
    assert only_finite(values) == values | {"nan": None, "inf": None, "wide": None}
