"""Names scans in a BIDS derivative: sub-X/ses-Y/anat/sub-X_ses-Y_acq-A_rec-R_run-N."""

import collections
import hashlib
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from eqpool.data.tables.participants import ID_COLUMN, ParticipantsTable, sessions

_BIDS_NAME = re.compile(r"sub-[A-Za-z0-9]+(?P<entities>(_[a-z]+-[A-Za-z0-9]+)*)_T1w\.nii(\.gz)?")
_BETWEEN = ("acq", "ce", "rec")  # entities between a scan's session and its run, in the order of BIDS


class _Scan(NamedTuple):
    """A name in two parts: the `stem`, and the `run` as it is written, "" for none."""

    stem: str
    run: str

    @property
    def key(self) -> tuple[str, int | None]:
        """Returns the key that must be unique. It holds the run's number, since BIDS equates run-1 and run-01."""
        return self.stem, int(self.run) if self.run else None

    def __str__(self) -> str:
        return f"{self.stem}_run-{self.run}" if self.run else self.stem


def scan_names(participant_id: Sequence[str], session: Sequence[str], files: Sequence[str]) -> list[str]:
    """Returns the name `sub-X/[ses-Y/]anat/sub-X[_ses-Y][_acq-A][_ce-C][_rec-R][_run-N]` of each of N rows.

    No two rows share a name. The subject is from the table, and so is the session if the table has one. Other entities
    are from the source's own name if that follows BIDS. Labels keep only letters and digits. Scans that would still
    share a name are numbered as runs in the table's order, with numbers that no source has. Participants who would
    share a label also get digits of their name's SHA-256.

    Args:
      participant_id: (N,) names from a whole table, since a name may depend on the other rows.
      session: (N,) sessions, "" for none.
      files: (N,) file names or paths of the sources, "" if unknown.
    """
    people = [name.removeprefix("sub-") for name in participant_id]
    count = collections.Counter(map(_label, set(people)))
    scans = [
        _scan(_subject(name, count), visit, _entities(pathlib.PurePath(file).name))
        for name, visit, file in zip(people, session, files, strict=True)
    ]
    return list(map(str, _told_apart(scans)))


def names_in_table(table: ParticipantsTable, files: Sequence[pathlib.Path | str]) -> list[str]:
    """Returns the `scan_names` of a table's N rows from their source `files`, (N,)."""
    return scan_names(table.frame[ID_COLUMN].tolist(), sessions(table), list(map(str, files)))


def _told_apart(scans: Sequence[_Scan]) -> Iterator[_Scan]:
    """Yields uniquely named scans unchanged, and the others as runs with numbers that no unique name has."""
    counts = collections.Counter(scan.key for scan in scans)
    numbers: dict[str, Iterator[int]] = collections.defaultdict(lambda: itertools.count(1))
    for scan in scans:
        if counts[scan.key] > 1:
            free = next(number for number in numbers[scan.stem] if counts[scan.stem, number] != 1)
            scan = _Scan(scan.stem, str(free))
        yield scan


def _entities(file: str) -> dict[str, str]:
    """Returns `{"acq": "x", "run": "2"}` for `sub-1_acq-x_run-2_T1w.nii.gz`, and {} for a name outside BIDS."""
    matched = _BIDS_NAME.fullmatch(file)
    return dict(entity.split("-") for entity in matched["entities"].split("_")[1:]) if matched else {}


def _scan(subject: str, session: str, entities: Mapping[str, str]) -> _Scan:
    visit = _visit(session) or entities.get("ses", "")
    folders = [subject, f"ses-{visit}"] if visit else [subject]
    name = "_".join([*folders, *(f"{key}-{entities[key]}" for key in _BETWEEN if key in entities)])
    run = entities.get("run", "")
    return _Scan("/".join([*folders, "anat", name]), run if run.isdigit() and len(run) < 10 else "")


def _subject(name: str, count: collections.Counter[str]) -> str:
    label = _label(name)
    alone = label and count[label] == 1
    return f"sub-{label}" if alone else f"sub-{label}{_digits(name)}"


def _visit(session: str) -> str:
    """Returns a session's label, or digits of its SHA-256 if it has no letter or digit."""
    session = session.removeprefix("ses-")
    return _label(session) or (_digits(session) if session else "")


def _label(text: str) -> str:
    return re.sub("[^A-Za-z0-9]", "", text)


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
