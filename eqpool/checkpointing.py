"""Checkpoints with Orbax, and the only place that imports it."""

import pathlib
from typing import Any, TypeVar

import jax

try:
    from orbax.checkpoint import v1 as ocp
except ImportError:  # where v1 has not left Orbax's experimental folder
    from orbax.checkpoint.experimental import v1 as ocp

State = TypeVar("State")


class Checkpoints:
    """The checkpoints of one stage: saved in the background, the last two kept, the newest good one restored."""

    def __init__(self, directory: pathlib.Path, keep: int = 2):
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
        """The state saved at `epoch` (the newest by default), with the structure and shardings of `like`."""
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        step = self._checkpointer.latest.step if epoch is None else epoch
        return self._checkpointer.load_checkpointables(step, {"state": abstract})["state"]
