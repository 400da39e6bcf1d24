"""Reads the variables that training selected."""

import pathlib

import jax

from eqpool.engine.state import Stage, Variables, create_state
from eqpool.errors import InputError
from eqpool.storage.checkpoints import Checkpoints


def selected_variables(stage: Stage, checkpoints: pathlib.Path, seed: int = 0) -> Variables:
    """Returns a stage's variables at its selected epoch.

    Args:
      stage: the stage as it was trained.
      checkpoints: folder with one subfolder for each stage.
      seed: the run's seed.

    Raises:
      InputError: the checkpoint is missing or damaged.
    """
    folder = checkpoints / stage.name
    # Any number of steps will do here, because it is not part of the optimizer's state.
    state = create_state(stage, stage.make_optimizer(1), jax.random.key(seed))
    with Checkpoints(folder) as saved:
        if saved.latest_epoch() is None:
            raise InputError(f"{folder}: no checkpoint; expected the folder of a finished run")
        return saved.restore(state).best_variables
