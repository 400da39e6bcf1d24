"""TensorBoard gets what metrics.jsonl gets, and a run that goes on from a checkpoint hides what it does again."""

import pathlib
import struct
import sys

import pytest

from eqpool.errors import InputError
from eqpool.storage.tensorboard import TensorBoardLog


def events(folder: pathlib.Path) -> list:
    """Every event of a folder, read as TFRecords: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def record(epoch: int, loss: float) -> dict:
    return {"stage": "stage_one", "step": 4 * epoch, "epoch": epoch, "loss": loss}


def test_every_number_of_a_record_is_a_scalar_of_its_epoch(tmp_path):
    log = TensorBoardLog(tmp_path / "metrics.jsonl")
    for epoch, loss in ((1, 0.5), (2, 0.25)):
        log.append(record(epoch, loss))
    assert log.records() == [record(1, 0.5), record(2, 0.25)]
    scalars = [
        (v.tag, e.step, v.simple_value) for e in events(tmp_path / "tensorboard/stage_one") for v in e.summary.value
    ]
    assert scalars == [("step", 1, 4.0), ("loss", 1, 0.5), ("step", 2, 8.0), ("loss", 2, 0.25)]


def test_what_is_dropped_is_hidden(tmp_path):
    TensorBoardLog(tmp_path / "metrics.jsonl").append(record(2, 0.25))
    resumed = TensorBoardLog(tmp_path / "metrics.jsonl")
    resumed.drop_after("stage_one", 1)
    resumed.append(record(2, 0.2))
    started = [event for event in events(tmp_path / "tensorboard/stage_one") if event.session_log.status]
    assert [(event.step, event.session_log.status) for event in started] == [(2, 1)]  # START: hide from step 2 on
    assert resumed.records() == [record(2, 0.2)]


def test_without_the_package_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"pip install 'eqpool\[tensorboard\]'"):
        TensorBoardLog(tmp_path / "metrics.jsonl")
