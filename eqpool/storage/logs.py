"""The training log metrics.jsonl, with one record an epoch."""

import contextlib
import json
import pathlib
from typing import Any

from eqpool.storage.files import cannot_write, is_left_to_another, write_text


class MetricsLog:
    """The log in metrics.jsonl, one JSON object a line. Each record has `stage` and `step`.

    A resumed run drops the records that it will write again.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path

    def append(self, record: dict[str, Any]) -> None:
        """Adds one line.

        Raises:
          InputError: the disk is full. The run that resumes drops a truncated line.
        """
        if is_left_to_another(self._path):
            return
        try:
            with open(self._path, "a") as handle:
                handle.write(json.dumps(record) + "\n")
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def drop_after(self, stage: str, epoch: int) -> None:
        """Removes the stage's records past `epoch`, and any truncated line."""
        if not self._path.exists():
            return
        kept = [r for r in self.records() if r["stage"] != stage or r["epoch"] <= epoch]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_text(self._path, text)

    def records(self) -> list[dict[str, Any]]:
        """Returns all complete records in order."""
        if not self._path.exists():
            return []
        records = []
        for line in self._path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records


class MemoryLog:
    """The records of a `MetricsLog` in memory, in `kept`, for a model without a work directory."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def append(self, record: dict[str, Any]) -> None:
        """Adds one record."""
        self.kept.append(record)

    def drop_after(self, stage: str, epoch: int) -> None:
        """Removes the stage's records past `epoch`."""
        self.kept = [record for record in self.kept if record["stage"] != stage or record["epoch"] <= epoch]

    def records(self) -> list[dict[str, Any]]:
        """Returns all records in order."""
        return list(self.kept)
