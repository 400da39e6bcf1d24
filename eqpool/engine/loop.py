"""The training loop of every stage: epochs, log, checkpoints and resuming."""

import math
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np

from eqpool.engine.data_parallel import any_process
from eqpool.engine.divergence import BadBatch
from eqpool.engine.state import TrainState
from eqpool.errors import Stopped
from eqpool.storage.checkpoints import Checkpoints, NoCheckpoints
from eqpool.storage.logs import MemoryLog, MetricsLog
from eqpool.storage.progress import track

Scalars = dict[str, float]
RunEpoch = Callable[[TrainState, int], tuple[TrainState, dict, dict]]


class TrainingDiverged(Stopped):
    """Training diverged. The message names stage, epoch, step, terms, the batch's rows and the last good checkpoint."""


class Preempted(Stopped):
    """Training was stopped by SIGTERM. The state is saved, and the same command resumes from it."""

    exit_code, advice = 143, "; the same command goes on from there"


def fit(
    name: str,
    state: TrainState,
    run_epoch: RunEpoch,
    epochs: int,
    directory: pathlib.Path | None,
    save_every: int,
    log: MetricsLog | MemoryLog,
    patience: int = 0,
    names: np.ndarray | None = None,
) -> TrainState:
    """Runs the remaining epochs and returns the final state.

    Args:
      name: name of the stage, for the log and the progress bar.
      state: initial state. The newest good checkpoint in `directory`, if any, replaces it.
      run_epoch: (state, epoch) -> (state, mean loss terms, validation scalars, possibly none).
      epochs: total number of epochs, including those of earlier runs.
      directory: folder of the stage's checkpoints. None keeps none, for a model that trains in seconds.
      save_every: epochs between two checkpoints. The last epoch is always saved.
      log: receives one record an epoch. Records past the restored epoch are dropped first.
      patience: number of epochs without a lower validation score after which training stops early; 0 for never.
      names: (K,) names of the training rows, for messages.

    Raises:
      TrainingDiverged: at the first batch with a loss or gradient that is not finite, or the first epoch with a
        validation score that is not. Nothing of that epoch is saved.
      Preempted: at the end of the epoch in which SIGTERM arrived, after saving. If that epoch fails, nothing of it is
        saved, and the message gives the error.
    """
    with Checkpoints(directory) if directory else NoCheckpoints() as checkpoints, _stop_on_sigterm(name) as stop_asked:
        if checkpoints.latest_epoch() is not None:
            state = checkpoints.restore_last_good(state)
        first = int(state.epoch)
        started = time.monotonic()
        log.drop_after(name, first)
        bar = track(range(first, epochs), name, unit="epoch", total=epochs, initial=first, leave=True)
        for epoch in bar:
            if patience and epoch - 1 - int(state.best_epoch) >= patience:
                break
            try:
                state, terms, validation = run_epoch(state, epoch)
            except BadBatch as bad:
                cause = f"{name} diverged in epoch {epoch + 1}, {bad.describe(names)}"
                raise TrainingDiverged(f"{cause}; {_last_good(checkpoints.latest_epoch())}") from None
            record = _record(name, state, terms, validation)
            record["seconds"] = round(time.monotonic() - started, 3)
            _check_finite(record, checkpoints.latest_epoch())
            log.append(record)
            bar.set_postfix({key: f"{record[key]:.3g}" for key in ("loss", "validation_score") if key in record})
            stopping = any_process(stop_asked.is_set())
            enough = patience and epoch - int(state.best_epoch) >= patience
            if stopping or enough or (epoch + 1) % save_every == 0 or epoch + 1 == epochs:
                checkpoints.save(epoch + 1, state)
            if stopping:
                raise Preempted(f"stopped by SIGTERM after epoch {epoch + 1} of {name}, which is saved")
    return state


def _record(name: str, state: TrainState, terms: dict, validation: dict) -> dict:
    terms, validation, step, epoch = jax.device_get((terms, validation, state.step, state.epoch))
    scalars = {key: float(value) for key, value in terms.items()}
    # Some validation scalars may be undefined without divergence, such as the equivariance error of a tau that does not
    # rotate. They are left out, unless they are the score or a term of the loss.
    scalars |= {
        f"validation_{key}": float(value)
        for key, value in validation.items()
        if key == "score" or key in terms or math.isfinite(value)
    }
    return {"stage": name, "step": int(step), "epoch": int(epoch), **scalars}


def _check_finite(record: dict, last_good: int | None) -> None:
    bad = [key for key, value in record.items() if isinstance(value, float) and not math.isfinite(value)]
    if bad:
        raise TrainingDiverged(
            f"{record['stage']} diverged in epoch {record['epoch']}, after step {record['step']}: "
            f"{', '.join(bad)} not finite; {_last_good(last_good)}"
        )


def _last_good(epoch: int | None) -> str:
    return "no checkpoint yet" if epoch is None else f"the last good checkpoint is that of epoch {epoch}"


@contextmanager
def _stop_on_sigterm(name: str) -> Iterator[threading.Event]:
    """Yields an event that SIGTERM sets. A SIGTERM after the loop's last check goes to the outer handler.

    An error after a SIGTERM becomes `Preempted`, because a caller that handles the error would go on with other work.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    except Exception as error:
        if asked.is_set() and not isinstance(error, Preempted):
            raise Preempted(f"stopped by SIGTERM in {name}, which then failed: {error}") from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if asked.is_set():
        signal.raise_signal(signal.SIGTERM)
