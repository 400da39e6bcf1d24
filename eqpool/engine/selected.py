"""Reads back the variables that training has selected."""

import pathlib

import jax

from eqpool.engine.state import Stage, Variables, create_state
from eqpool.errors import InputError
from eqpool.storage.checkpoints import Checkpoints


def selected_variables(stage: Stage, checkpoints: pathlib.Path, seed: int = 0) -> Variables:
    """Returns a stage's variables at its selected epoch.

    Args:
      stage: as it was trained.
      checkpoints: folder with one subfolder for each stage.
      seed: of the run.

    Raises:
      InputError: no checkpoint, or a damaged one.
    """
    folder = checkpoints / stage.name
    # The number of steps is not part of the optimizer's state.
    state = create_state(stage, stage.make_optimizer(1), jax.random.key(seed))
    with Checkpoints(folder) as saved:
        if saved.latest_epoch() is None:
            raise InputError(f"{folder}: no checkpoint; expected the folder of a finished run")
        return saved.restore(state).best_variables
