"""metrics.jsonl: what training logs, one record an epoch."""

import contextlib
import json
import pathlib
from typing import Any

from eqpool.storage.files import cannot_write, is_left_to_another, write_text


class MetricsLog:
    """metrics.jsonl: one object a logged step, with `stage` and `step`. A resumed run drops what it will redo."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def append(self, record: dict[str, Any]) -> None:
        """Adds one line.

        Raises:
          InputError: the disk is full; a line cut short is dropped by the run that goes on.
        """
        if is_left_to_another(self._path):
            return
        try:
            with open(self._path, "a") as handle:
                handle.write(json.dumps(record) + "\n")
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def drop_after(self, stage: str, epoch: int) -> None:
        """Removes the stage's records past `epoch`, and any line a kill has cut short."""
        if not self._path.exists():
            return
        kept = [r for r in self.records() if r["stage"] != stage or r["epoch"] <= epoch]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_text(self._path, text)

    def records(self) -> list[dict[str, Any]]:
        """All whole records, in order."""
        if not self._path.exists():
            return []
        records = []
        for line in self._path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records


class MemoryLog:
    """What `MetricsLog` keeps in a file, kept in `kept`, for a model that has no work directory."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def append(self, record: dict[str, Any]) -> None:
        """Adds one record."""
        self.kept.append(record)

    def drop_after(self, stage: str, epoch: int) -> None:
        """Removes the stage's records past `epoch`."""
        self.kept = [record for record in self.kept if record["stage"] != stage or record["epoch"] <= epoch]

    def records(self) -> list[dict[str, Any]]:
        """All records, in order."""
        return list(self.kept)
