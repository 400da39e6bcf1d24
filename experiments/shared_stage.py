"""Stage one, trained once for all runs of an experiment that differ only in what comes after it.

It is the longer of the two on volumes: stage two of another setting goes on from a copy.
"""

import json
import pathlib
import shutil
from collections.abc import Mapping

from eqpool.files import write_text
from eqpool.workdir import MetricsLog

LATER = ("stage_two.", "evaluate.", "output.")  # groups of keys that stage one does not read
STAGE = "stage_one"


def before_stage_two(setting: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """What of a setting its stage one depends on, hashable."""
    return tuple(sorted((key, repr(value)) for key, value in setting.items() if not key.startswith(LATER)))


def take_stage_one(finished: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies stage one out of a finished work directory, with its log and the data that it is of.

    Nothing is taken where `folder` has a stage one, nor from a run without one. The checkpoints come last and whole: a
    copy that was cut short is made again.
    """
    source, target = finished / "checkpoints" / STAGE, folder / "checkpoints" / STAGE
    if not source.is_dir() or target.exists():
        return
    part = folder / f"{STAGE}.copy"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    records = [record for record in MetricsLog(finished / "metrics.jsonl").records() if record["stage"] == STAGE]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    for name in ("data.json", "pooled.tsv"):
        shutil.copyfile(finished / name, folder / name)
    target.parent.mkdir(exist_ok=True)
    part.rename(target)
