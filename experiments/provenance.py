"""Provenance of an experiment's numbers: commit, config, date, device, versions, seeds and seconds."""

import functools
import hashlib
import json
import pathlib
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eqpool.commands.run import made_with
from eqpool.config import RunConfig, to_dict

ROOT = pathlib.Path(__file__).resolve().parent.parent
_CODE = ("*.py", "pyproject.toml", "constraints.txt")  # files that tables depend on; other changes are not "-dirty"
_PLACES = (("cache_dir",), ("data", "raw_dir"), ("data", "participants"))  # config keys that name a machine's folders


@functools.cache
def commit() -> str | None:
    """Returns `commit_of` this checkout, as it was at the first call."""
    return commit_of(ROOT)


def commit_of(root: pathlib.Path) -> str | None:
    """Returns the commit of the checkout `root`, followed by "-dirty" if the code differs from it.

    Returns None if `root` is not the top of a git checkout, for example an unpacked archive.
    """
    if _git(root, "rev-parse", "--show-toplevel") != str(root):
        return None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *_CODE)
    head = _git(root, "rev-parse", "HEAD")
    return head and head + ("-dirty" if changed else "")


def _git(root: pathlib.Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def config_hash(config: RunConfig | Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits that identify a config's values, except for the folders in `_PLACES`."""
    values = to_dict(config) if isinstance(config, RunConfig) else dict(config)
    for *sections, key in _PLACES:
        section = functools.reduce(lambda tree, name: tree.get(name, {}), sections, values)
        section.pop(key, None)
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def made_here(config: RunConfig | Mapping[str, Any], seed: int, commits: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the record of a computation in this process, with the keys that `stamp` reads from a run.

    Args:
      config: config of the computation.
      seed: seed of the computation.
      commits: commits of the files from which results were read. An unknown commit is "". It is empty if nothing was
        read.
    """
    known = {one or "not recorded" for one in commits} or {commit() or "not recorded"}
    return {"seed": seed, "commit": _all_of(known), "config_hash": config_hash(config), **made_with()}


def stamp(experiment: str, runs: Sequence[Mapping[str, Any]], wall_seconds: float) -> dict[str, Any]:
    """Returns the provenance that opens an experiment's JSON.

    Args:
      experiment: name of the experiment.
      runs: runs that contribute numbers to the file. Runs that another command finished earlier keep their own records.
      wall_seconds: seconds of the command that writes the file. Runs hold their own seconds.
    """
    hashes = sorted({str(run.get("config_hash")) for run in runs})
    packages = sorted({name for run in runs for name in run["versions"]})
    return {
        "experiment": experiment,
        "commit": commit(),
        "commits_of_runs": sorted({run.get("commit") or "not recorded" for run in runs}),
        "config_hash": hashes[0] if len(hashes) == 1 else config_hash({"of_runs": hashes}),
        "date": made_with()["date"],
        "device": _all_of(run["device"] for run in runs),
        "versions": {name: _all_of(run["versions"].get(name, "absent") for run in runs) for name in packages},
        "seeds": sorted({run["seed"] for run in runs}),
        "wall_seconds": round(wall_seconds, 1),
    }


def _all_of(values: Iterable[str]) -> str:
    return " and ".join(sorted(set(values)))


def written_by(name: str, content: Mapping[str, Any], run: Mapping[str, Any] | None = None) -> str:
    """Returns "Written by <command> on <date>, <commit>, <device>, <versions>." for the head of a table.

    Args:
      name: name of the experiment.
      content: content of its JSON. Files older than `stamp` lack some facts, which `run` may have.
      run: one run that the file holds.
    """
    facts = {**(run or {}), **content}
    command = content.get("command", f"python -m experiments {name}")
    own, others = content.get("commit"), content.get("commits_of_runs", [])
    commits = f"commit {_short(own)}" if own else "commit not recorded"
    if others and others != [own]:
        commits += f" (runs: {', '.join(map(_short, others))})"
    versions = [f"{package} {version}" for package, version in facts.get("versions", {}).items()]
    parts = [f"Written by `{command}` on {facts.get('date', 'an unknown day')}", commits]
    return ", ".join([*parts, *([facts["device"]] if "device" in facts else []), *versions]) + "."


def _short(commit: str) -> str:
    head, separator, mark = commit.partition("-dirty")
    return (head[:12] if len(head) == 40 else head) + separator + mark
