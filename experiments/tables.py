"""Results of the experiments, the text of table cells, and the blocks of tables in pages."""

import argparse
import pathlib
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from eqpool.storage.files import read_json, write_text
from experiments.registry import EXPERIMENTS, HERE, Experiment, experiment_of

TASK_MODELS_KEPT = "each at its own epoch"  # fact of an ISTN's tables; older ones kept all at the ISTN's epoch
_BLOCK = re.compile(r"<!-- table of results/(\S+)\.json, written by the command -->\n(.*?)\n<!-- end -->\n", re.DOTALL)


class Measured(NamedTuple):
    """The results of an experiment.

    Attributes:
      content: content of its JSON without the provenance.
      runs: runs that the content holds, each with the keys that `provenance.stamp` reads.
      variant: suffix of the experiment's name in the file's name, such as "_own".
    """

    content: dict[str, Any]
    runs: Sequence[Mapping[str, Any]]
    variant: str = ""


class Module(Protocol):
    """The functions of a module of the registry."""

    def add_flags(self, parser: argparse.ArgumentParser, experiment: Experiment) -> None:
        """Adds the experiment's own flags."""

    def run(self, experiment: Experiment, options: argparse.Namespace) -> Measured:
        """Runs the experiment, or resumes it. Raises `InputError` for bad input."""

    def markdown(self, experiment: Experiment, content: dict[str, Any]) -> str:
        """Returns the table that the page shows, which depends on the JSON alone."""


def results_path(output: pathlib.Path, experiment: Experiment, variant: str) -> pathlib.Path:
    """Returns the path of an experiment's JSON."""
    return output / "results" / f"{experiment.name}{variant}.json"


def put_table(page: pathlib.Path, experiment: Experiment, results: str, text: str) -> None:
    """Writes a table into its block of the page, or appends the block if the page has none.

    Args:
      page: Markdown file, which need not exist.
      experiment: experiment. Its question is the heading of a new page.
      results: name of the JSON without suffix.
      text: text of the table.
    """
    before = page.read_text() if page.is_file() else f"# {experiment.question}\n"
    block = f"<!-- table of results/{results}.json, written by the command -->\n{text}\n<!-- end -->\n"
    found = [match for match in _BLOCK.finditer(before) if match[1] == results]
    start, end = found[0].span() if found else (len(before), len(before))
    write_text(page, before[:start] + ("" if found else "\n") + block + before[end:])


def blocks(page: str) -> dict[str, str]:
    """Returns the tables of a page's text, by the name of their JSON without suffix."""
    return {match[1]: match[2] for match in _BLOCK.finditer(page)}


def without_blocks(page: str) -> str:
    """Returns a page's text without its tables."""
    return _BLOCK.sub("", page)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a Markdown table."""
    yield "| " + " | ".join(header) + " |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def index() -> Iterator[str]:
    """Yields the lines of README.md's table."""
    rows = []
    for one in EXPERIMENTS.values():
        files = sorted((HERE / "results").glob("*.json"))
        own = [f"[{path.stem}](results/{path.name})" for path in files if experiment_of(path) is one]
        name = f"[{one.name}](pages/{one.name}.md)"
        rows.append([name, one.question, f"`{one.command}`", one.time, ", ".join(own) or "not committed"])
    yield from table(["experiment", "question", "command", "time on two CPU cores", "numbers"], rows)


def mean_and_deviation(values: Sequence[float | None], digits: int) -> str:
    """Returns the mean (standard deviation) of the values that are defined.

    A single value, and counts (0 digits), have no deviation.
    """
    numbers = [value for value in values if value is not None]
    if not numbers:
        return ""
    spread = f" ({statistics.stdev(numbers):.{digits}f})" if len(numbers) > 1 and digits else ""
    return f"{statistics.mean(numbers):.{digits}f}{spread}"


def with_median(values: Sequence[float | None], digits: int) -> str:
    """Returns `mean_and_deviation`, with the median in brackets if there are at least three values and no counts."""
    numbers = [value for value in values if value is not None]
    median = f" [{statistics.median(numbers):.{digits}f}]" if len(numbers) > 2 and digits else ""
    return f"{mean_and_deviation(values, digits)}{median}"


def with_interval(metrics: Mapping[str, Any], key: str, digits: int) -> str:
    """Returns a text such as "81.3 [70.0, 90.0]", without brackets if there is no interval, or "" without a value."""
    if metrics.get(key) is None:
        return ""
    interval = metrics.get(f"{key}_interval")
    between = f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""
    return f"{metrics[key]:.{digits}f}{between}"


def in_words(setting: Mapping[str, Any]) -> str:
    """Returns a text such as "stage_two.mmd_weight 5.0, seed 1", or "default" for an empty setting."""
    return ", ".join(f"{key} {value}" for key, value in setting.items()) or "default"


def beside_the_config(changed: Sequence[str]) -> list[str]:
    """Returns the line of a table's head that names the values of --set, or no line if there are none."""
    return [f"Beside the config: {', '.join(changed)}."] if changed else []


def joined(
    path: pathlib.Path, facts: Mapping[str, Any], rows: Sequence[dict[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Joins the new rows of a table with earlier rows that were not run again.

    All rows of a table share the same `facts`. Earlier rows with other facts are dropped, and a line on stderr names
    the facts that differ.

    Args:
      path: path of the table's JSON, which need not exist.
      facts: facts that all rows of the table share, as in the JSON.
      rows: new rows.
      names: keys that identify a row.
    """
    earlier = read_json(path) if path.is_file() else {}
    other = [key for key, value in facts.items() if earlier.get(key) != value]
    kept = earlier.get("rows", [])
    if kept and other:
        print(f"eqpool: {path}: its {len(kept)} rows are of another {', '.join(other)} and go", file=sys.stderr)
        kept = []
    return list({repr([_listed(row[name]) for name in names]): row for row in [*kept, *rows]}.values())


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # JSON returns tuples as lists
