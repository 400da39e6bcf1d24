"""TensorBoard events in addition to metrics.jsonl, for `config.output.tensorboard`. Needs the extra `tensorboard`."""

import pathlib
import time
from typing import Any

from eqpool.errors import InputError
from eqpool.storage.files import is_left_to_another
from eqpool.storage.logs import MetricsLog


class TensorBoardLog(MetricsLog):
    """A `MetricsLog` that also writes every number as a TensorBoard scalar by epoch, with one TensorBoard run a stage.

    Events are written and flushed at once. tensorboardX's SummaryWriter writes in a thread, which loses the last events
    unless it is closed.

    Args:
      path: path of metrics.jsonl. Events go to the folder `tensorboard` beside it.

    Raises:
      InputError: tensorboardX is not installed.
    """

    def __init__(self, path: pathlib.Path):
        super().__init__(path)
        try:
            import tensorboardX.proto.event_pb2  # noqa: F401 - the first use is after hours of preparing data
        except ImportError:
            raise InputError(
                "config.output.tensorboard = True: needs tensorboardX; pip install 'eqpool[tensorboard]'"
            ) from None
        self._folder = path.parent / "tensorboard"
        self._writers: dict[str, Any] = {}

    def append(self, record: dict[str, Any]) -> None:
        """Adds one line, and its numbers as scalars of its epoch."""
        super().append(record)
        scalars = [
            {"tag": key, "simple_value": value} for key, value in record.items() if key not in ("stage", "epoch")
        ]
        self._write(record["stage"], step=record["epoch"], summary={"value": scalars})

    def drop_after(self, stage: str, epoch: int) -> None:
        """Removes the stage's records past `epoch`, and makes TensorBoard hide their events."""
        super().drop_after(stage, epoch)
        self._write(stage, step=epoch + 1, session_log={"status": "START"})

    def _write(self, stage: str, **event: Any) -> None:
        if is_left_to_another(self._folder):
            return
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event

        if stage not in self._writers:
            folder = self._folder / stage
            folder.mkdir(parents=True, exist_ok=True)
            self._writers[stage] = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
            self._write(stage, file_version="brain.Event:2")
        self._writers[stage].write(Event(wall_time=time.time(), **event).SerializeToString())
        self._writers[stage].flush()
