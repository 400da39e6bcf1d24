"""The loop every stage goes through: epochs, log, checkpoints, resume."""

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
    """Training broke; the message names stage, epoch, step, terms, the batch's rows and the last good checkpoint."""


class Preempted(Stopped):
    """SIGTERM came; the state is saved, and the same command goes on from it."""

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
    """Runs the epochs that are still to be done and returns the final state.

    Args:
      name: the stage's, for the log and the progress bar.
      state: the initial state; the newest good checkpoint in `directory`, if any, replaces it.
      run_epoch: (state, epoch) -> (state, mean loss terms, validation scalars, which may be none).
      epochs: in all, those of earlier runs included.
      directory: of the stage's checkpoints; None keeps none, for a model that trains in seconds.
      save_every: epochs between two checkpoints; the last epoch is always saved.
      log: gets one record an epoch; records past the restored epoch are dropped first.
      patience: epochs without a lower validation score after which training stops early; 0: never.
      names: (K,) of the training rows, for messages.

    Raises:
      TrainingDiverged: at the first batch whose loss or gradient is not finite, or the first epoch whose validation is
        not; nothing of that epoch is saved.
      Preempted: at the end of the epoch in which SIGTERM came, after saving.
    """
    with Checkpoints(directory) if directory else NoCheckpoints() as checkpoints, _stop_on_sigterm() as stop_asked:
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
                told = f"{name} diverged in epoch {epoch + 1}, {bad.describe(names)}"
                raise TrainingDiverged(f"{told}; {_last_good(checkpoints.latest_epoch())}") from None
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
    # A scalar that is neither the score nor a term of the loss may be undefined, as the equivariance error of a tau
    # that does not turn: that is no divergence, and it is left out.
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
def _stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; one that comes after its last look is given to who handles it outside."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
    if asked.is_set():
        signal.raise_signal(signal.SIGTERM)
