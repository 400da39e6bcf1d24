"""Steps of both stages at German's sizes, and German's whole protocol of 501 + 501 epochs.

    make benchmark ARGS="-k protocol"

The rows are random and of German's shape (640 training, 160 validation, 58 features, batch 128): the time does not
depend on their values, and the benchmark needs no data.
"""

import jax
import numpy as np
import pytest

from eqpool import parallel
from eqpool.config import EvaluateConfig, ModelConfig, RunConfig, StageOneConfig, StageTwoConfig
from eqpool.train.stage_one import make_stage_one
from eqpool.train.stage_two import make_stage_two
from eqpool.train.state import create_state, make_optimizer
from eqpool.train.table import make_table_epoch

EPOCHS, TRAIN, VALIDATION, FEATURES, LATENT, BATCH = 501, 640, 160, 58, 30, 128


def rows(count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    latent = generator.normal(size=(count, LATENT))
    return {
        "inputs": generator.normal(size=(count, FEATURES)).astype(np.float32),
        "covariate": generator.random((count, 1)).astype(np.float32),
        "site": generator.integers(0, 2, count).astype(np.int32),
        "target": generator.integers(0, 2, count).astype(np.int32),
        "target_known": np.ones(count, np.float32),
        "latent": (latent / np.linalg.norm(latent, axis=1, keepdims=True)).astype(np.float32),
        "tau": np.linalg.qr(generator.normal(size=(count, LATENT, LATENT)))[0].astype(np.float32),
    }


def prepare(name: str):
    config = RunConfig(
        model=ModelConfig(latent_dim=LATENT),
        stage_one=StageOneConfig(epochs=EPOCHS, batch_size=BATCH, learning_rate=1e-2, prediction_weight=1.0),
        stage_two=StageTwoConfig(epochs=EPOCHS, batch_size=BATCH, learning_rate=1e-2),
        evaluate=EvaluateConfig(),
    )
    stage = make_stage_one(config, (FEATURES,), 1, 2, 2) if name == "stage_one" else make_stage_two(config, 2, 2)
    mesh = parallel.make_mesh(1)
    optimizer = make_optimizer(getattr(config, name), -(-TRAIN // BATCH))
    epoch = make_table_epoch(stage, optimizer, BATCH, mesh)
    tables = parallel.put_replicated([rows(TRAIN), rows(VALIDATION)], mesh)
    state = parallel.put_replicated(create_state(stage, optimizer, jax.random.key(0)), mesh)
    state, *_ = epoch(state, *tables, jax.random.key(1))  # compiles
    return epoch, state, tables


@pytest.mark.parametrize("name", ["stage_one", "stage_two"])
def test_protocol_german_one_seed(benchmark, name):
    epoch, state, tables = prepare(name)
    holder = {"state": state}

    def all_epochs():
        state = holder["state"]
        for _ in range(EPOCHS):
            state, terms, scores, _ = epoch(state, *tables, jax.random.key(1))
            jax.device_get((terms, scores))  # as the log does
        holder["state"] = jax.block_until_ready(state)

    benchmark.extra_info["milliseconds_a_step"] = None
    benchmark.pedantic(all_epochs, rounds=1, iterations=1)
    steps = EPOCHS * -(-TRAIN // BATCH)
    benchmark.extra_info["milliseconds_a_step"] = 1000 * benchmark.stats.stats.min / steps
