"""Checkpoints with Orbax. No other module imports Orbax."""

import contextlib
import hashlib
import logging
import os
import pathlib
import re
import sys
import warnings
from typing import Any, TypeVar

import jax
import numpy as np

from eqpool import __version__
from eqpool.errors import InputError

try:
    from orbax.checkpoint import v1 as ocp
except ImportError:  # Orbax versions with v1 still in the experimental folder
    from orbax.checkpoint.experimental import v1 as ocp

State = TypeVar("State")
_DAMAGED = ".damaged"  # suffix of a checkpoint that was set aside because it cannot be restored
_DIGEST, _VERSION = "sha256", "eqpool"

# A failure in one of Orbax's tasks already raises an exception. Orbax repeats it in hundreds of lines of log, and in a
# warning when its event loop is dropped.
logging.getLogger("asyncio").addFilter(lambda record: "orbax/checkpoint" not in record.getMessage())
logging.getLogger("absl").addFilter(lambda record: record.levelno < logging.ERROR or "orbax" not in record.pathname)
warnings.filterwarnings("ignore", message=r"coroutine 'Store\..*' was never awaited", category=RuntimeWarning)


class DamagedCheckpoint(InputError):
    """A checkpoint that cannot be restored."""


class Checkpoints:
    """The checkpoints of one stage. The last two are kept, each with a digest of its arrays.

    Orbax detects truncated files and damage of its own records, but it does not check the bytes of the arrays. The
    digest detects a single flipped bit.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        policies = ocp.training.preservation_policies
        try:
            self._checkpointer = ocp.training.Checkpointer(
                directory.absolute(), preservation_policy=policies.LatestN(2), cleanup_tmp_directories=True
            )
        except OSError as error:
            raise InputError(f"{directory}: cannot be written ({error.strerror})") from error
        except ValueError as error:  # a flipped bit in a text record of Orbax
            raise DamagedCheckpoint(f"{directory}: a _CHECKPOINT_METADATA in it is damaged ({error})") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        # Closing fails again after a failed save, and the first error explains the cause.
        with contextlib.suppress(*([] if kind is None else [Exception])):
            self._checkpointer.close()

    def epochs(self) -> list[int]:
        """Returns the saved epochs in order."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def latest_epoch(self) -> int | None:
        """Returns the epoch of the newest checkpoint, or None."""
        return max(self.epochs(), default=None)

    def save(self, epoch: int, state: Any) -> None:
        """Saves `state` at the end of `epoch`, unless that epoch is already saved.

        Raises:
          InputError: the checkpoint cannot be written, for example on a full disk. Earlier checkpoints are unaffected.
        """
        if self.latest_epoch() == epoch:
            return
        try:
            self._checkpointer.save_checkpointables(
                epoch,
                {"state": _in_use(state)},
                force=True,
                custom_metadata={_DIGEST: _digest(state), _VERSION: __version__},
            )
        except Exception as error:  # tensorstore raises ValueError with the full path and its own error code
            last = "no checkpoint yet" if self.latest_epoch() is None else f"the last good one is {self.latest_epoch()}"
            raise InputError(
                f"{self._directory}: the checkpoint of epoch {epoch} cannot be written ({_reason(error)}); {last}"
            ) from error

    def restore(self, like: State, epoch: int | None = None) -> State:
        """Returns the state saved at `epoch` (the newest by default), with the structure and shardings of `like`.

        Raises:
          DamagedCheckpoint: one line, if the checkpoint is damaged or another version of eqpool wrote it.
        """
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        step = self.epochs()[-1] if epoch is None else epoch
        try:
            saved = self._checkpointer.load_checkpointables(step, {"state": _in_use(shapes)})["state"]
        except Exception as error:  # Orbax raises many kinds, with the whole tree in the message
            raise self._damaged(step, type(error).__name__) from error
        state = like._replace(**saved) if hasattr(like, "_replace") else saved
        if self._said(step).get(_DIGEST, "") not in ("", _digest(state)):
            raise self._damaged(step, "its arrays are not those that were saved")
        return state

    def restore_last_good(self, like: State) -> State:
        """Restores the newest intact checkpoint. Newer ones are set aside with a message on stderr.

        Raises:
          DamagedCheckpoint: no checkpoint can be restored. In that case none is set aside.
        """
        first: DamagedCheckpoint | None = None
        for epoch in reversed(self.epochs()):
            try:
                state = self.restore(like, epoch)
            except DamagedCheckpoint as error:
                first = first or error
                continue
            if first is not None:
                self._set_aside([newer for newer in self.epochs() if newer > epoch])
                print(f"eqpool: {first}; going on from epoch {epoch}", file=sys.stderr)
            return state
        assert first is not None, "asked to restore where nothing is saved"
        raise first

    def _set_aside(self, epochs: list[int]) -> None:
        for epoch in epochs:
            path = self._directory / str(epoch)
            path.rename(path.with_name(f"{epoch}{_DAMAGED}"))
        self._checkpointer.reload()

    def _damaged(self, epoch: int, reason: str) -> DamagedCheckpoint:
        version = self._said(epoch).get(_VERSION, __version__)
        of_this = "it is damaged, or of another config or an earlier state of this version"
        cause = of_this if version == __version__ else f"eqpool {version} wrote it"
        return DamagedCheckpoint(f"{self._directory / str(epoch)}: cannot be restored; {cause} ({reason})")

    def _said(self, epoch: int) -> dict[str, str]:
        """Returns the metadata saved beside the state, or an empty dict if it is damaged."""
        try:
            return dict(self._checkpointer.checkpointables_metadata(epoch).custom_metadata or {})
        except Exception:
            return {}


def _in_use(state: Any) -> Any:
    """Returns a tuple's fields by name without empty dicts, so that checkpoints hold only values in use."""
    if not hasattr(state, "_asdict"):
        return state
    return {name: value for name, value in state._asdict().items() if not (isinstance(value, dict) and not value)}


def _digest(state: Any) -> str:
    """Computes the SHA-256 of all arrays of a state, with their shapes and dtypes."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(state)):
        array = np.ascontiguousarray(leaf)
        digest.update(repr((array.shape, array.dtype.name)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return getattr(error, "strerror", None) or type(error).__name__


class NoCheckpoints:
    """A replacement for `Checkpoints` in stages that are never resumed. It saves nothing."""

    def __enter__(self) -> "NoCheckpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def latest_epoch(self) -> int | None:
        """Returns None, as nothing is saved."""
        return None

    def save(self, epoch: int, state: Any) -> None:
        """Does nothing."""

    def restore_last_good(self, like: State) -> State:
        """Raises LookupError, because `latest_epoch` reports that nothing is saved."""
        raise LookupError("no checkpoint was saved")
