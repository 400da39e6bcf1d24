"""Checkpoints with Orbax, and the only place that imports it."""

import pathlib
from typing import Any, TypeVar

import jax

from eqpool.errors import InputError

try:
    from orbax.checkpoint import v1 as ocp
except ImportError:  # where v1 has not left Orbax's experimental folder
    from orbax.checkpoint.experimental import v1 as ocp

State = TypeVar("State")


class Checkpoints:
    """The checkpoints of one stage: saved in the background, the last two kept, the newest good one restored."""

    def __init__(self, directory: pathlib.Path, keep: int = 2):
        self._directory = directory
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(), preservation_policy=policies.LatestN(keep), cleanup_tmp_directories=True
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._checkpointer.close()

    def latest_epoch(self) -> int | None:
        """The epoch of the newest checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, epoch: int, state: Any) -> None:
        """Saves `state` as that of the end of `epoch`; an epoch that is already saved stays as it is."""
        if self.latest_epoch() != epoch:
            self._checkpointer.save_checkpointables(epoch, {"state": state}, force=True)

    def restore(self, like: State, epoch: int | None = None) -> State:
        """The state saved at `epoch` (the newest by default), with the structure and shardings of `like`.

        Raises:
          InputError: one line, where the checkpoint is damaged or another version of eqpool wrote it.
        """
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        step = self._checkpointer.latest.step if epoch is None else epoch
        try:
            return self._checkpointer.load_checkpointables(step, {"state": abstract})["state"]
        except Exception as error:  # Orbax raises many kinds, with the whole tree in the message
            raise InputError(
                f"{self._directory / str(step)}: cannot be restored; it is damaged or another version of eqpool wrote "
                f"it ({type(error).__name__}). Remove the work directory to start again"
            ) from error


class NoCheckpoints:
    """In place of `Checkpoints` where a stage is not to be resumed: saves nothing, has nothing."""

    def __enter__(self) -> "NoCheckpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def latest_epoch(self) -> int | None:
        """None."""
        return None

    def save(self, epoch: int, state: Any) -> None:
        """Does nothing."""

    def restore(self, like: State, epoch: int | None = None) -> State:
        """Raises LookupError: `latest_epoch` has said that there is nothing."""
        raise LookupError("no checkpoint was saved")
