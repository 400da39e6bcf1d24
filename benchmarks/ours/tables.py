"""Our stages one and two of the paper's protocol on tables, as scanned epochs with validation."""

import jax
import jax.numpy as jnp

from benchmarks.inputs import Work
from benchmarks.ours.common import with_initial_weights
from benchmarks.table_stages import Epochs, make_stage, paper_config, random_rows
from eqpool.engine.state import Stage


def epoch(dataset: str, name: str) -> Work:
    """Returns the work of one epoch of the stage `name`. On Adult it has 204 steps and 6 512 validation rows."""
    epochs = Epochs(dataset, name)

    def run() -> float:
        epochs.run()
        return float("nan")  # PyTorch orders the rows differently, so the losses are not comparable

    return Work(run, steps=epochs.steps)


def first_loss(dataset: str, name: str, rows: int, features: int) -> float:
    """Returns the loss of one batch before training, with which the PyTorch form is compared."""
    config = paper_config(dataset)
    stage: Stage = make_stage(config, name, features)
    variables = with_initial_weights(stage.initialise(jax.random.key(0)))
    batch = {key: jnp.asarray(value) for key, value in random_rows(name, rows, features, 30).items()}
    batch["mask"] = jnp.ones(rows)
    return float(stage.loss(variables, batch, jax.random.key(0), jnp.zeros((), jnp.int32)).total)
