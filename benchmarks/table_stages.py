"""Both stages of the paper's protocol (`configs/*.py:paper`) on tables with the shapes of German and Adult.

The rows are random, because the time does not depend on their values. So no data are needed.
"""

import importlib
from typing import NamedTuple

import jax
import numpy as np

from eqpool.config import RunConfig
from eqpool.config.check import from_config_dict
from eqpool.data.shape import DataShape
from eqpool.data.volumes.batches import batch_sizes
from eqpool.engine import data_parallel
from eqpool.engine.state import Batch, Stage, TrainState, create_state, make_optimizer
from eqpool.engine.table import make_table_epoch
from eqpool.objectives.stage_one import make_stage_one
from eqpool.objectives.stage_two import make_stage_two

NUM_SITES = NUM_CLASSES = 2


class TableSize(NamedTuple):
    """The numbers of training rows, validation rows and features of a table."""

    train: int
    validation: int
    features: int


SIZES = {"german": TableSize(640, 160, 58), "adult": TableSize(26_049, 6_512, 104)}


def paper_config(dataset: str) -> RunConfig:
    """Returns the config of the paper's protocol on "german" or "adult"."""
    return from_config_dict(importlib.import_module(f"configs.{dataset}").get_config("paper"))


def make_stage(config: RunConfig, name: str, features: int) -> Stage:
    """Returns the stage `name`."""
    shape = DataShape((features,), 1, NUM_SITES, NUM_CLASSES)
    if name == "stage_one":
        return make_stage_one(config, shape)
    return make_stage_two(config, shape)


def random_rows(name: str, count: int, features: int, latent_dim: int) -> dict[str, np.ndarray]:
    """Returns the columns that the stage `name` reads, for `count` rows."""
    generator = np.random.default_rng(0)
    labels = {
        "covariate": generator.random((count, 1)).astype(np.float32),
        "site": generator.integers(0, NUM_SITES, count).astype(np.int32),
        "target": generator.integers(0, NUM_CLASSES, count).astype(np.int32),
        "target_known": np.ones(count, np.float32),
    }
    if name == "stage_one":
        return labels | {"inputs": generator.normal(size=(count, features)).astype(np.float32)}
    latent = generator.normal(size=(count, latent_dim)).astype(np.float32)
    frames = generator.normal(size=(count, latent_dim, latent_dim)).astype(np.float32)
    return labels | {
        "latent": latent / np.linalg.norm(latent, axis=1, keepdims=True),
        "tau": np.linalg.qr(frames)[0],
    }


class Epochs:
    """A compiled epoch with its state and tables. Each `run` continues from the state of the last one."""

    def __init__(self, dataset: str, name: str):
        size, config = SIZES[dataset], paper_config(dataset)
        settings = getattr(config, name)
        self.epochs: int = settings.epochs
        self.steps = len(batch_sizes(size.train, settings.batch_size))
        stage, mesh = make_stage(config, name, size.features), data_parallel.make_mesh(1)
        optimizer = make_optimizer(settings, self.steps)
        self._epoch = make_table_epoch(stage, optimizer, settings.batch_size, mesh)
        rows = [random_rows(name, count, size.features, config.model.latent_dim) for count in size[:2]]
        self._tables: list[Batch] = data_parallel.put_replicated(rows, mesh)
        state = create_state(stage, optimizer, jax.random.key(0))
        self._state: TrainState = data_parallel.put_replicated(state, mesh)
        self.run()  # the first run compiles

    def run(self) -> None:
        """Runs one epoch with its validation, and moves its terms and scores to the host, as for the log."""
        self._state, terms, scores, _ = self._epoch(self._state, *self._tables, jax.random.key(1))
        jax.device_get((terms, scores))
