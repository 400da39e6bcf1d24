"""The text that a run prints on the terminal: a description of the data, and the results."""

import pathlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eqpool.data.cohort import SPLITS, Cohort
from eqpool.data.preflight.finding import Finding
from eqpool.data.preflight.held_out import HELD_OUT
from eqpool.data.volumes.overlap import MISALIGNED
from eqpool.report.plain_verdict import plain_verdict
from eqpool.report.score_table import Card, describe_scorecard
from eqpool.report.verdicts import read_metrics
from eqpool.storage.run_folder import RunFolder

_ON_TOP = (HELD_OUT, MISALIGNED)  # checks whose warnings come first, because they limit every result below them


def _describe_cohort(cohort: Cohort) -> str:
    """Describes the pooled data: simulated or real, rows by site and class, covariates, and notes."""
    kind = "SIMULATED data (made by eqpool, not measured)" if cohort.simulated else "real data"
    shape = "x".join(map(str, cohort.inputs.shape[1:]))
    if cohort.volumes is not None:
        what = f"volumes of {shape} voxels (grid {cohort.volumes.grid.name})"
    else:
        what = f"{shape} features a row" if cohort.table is not None else f"images of {shape} pixels"
    lines = [f"{cohort.name}: {kind}, {len(cohort.site)} rows, {what}", *_site_lines(cohort)]
    lines.append("  rows by split: " + ", ".join(f"{split} {len(cohort.rows(split))}" for split in SPLITS))
    lines += [f"  note: {note}" for note in cohort.notes]
    return "\n".join(map(_on_one_line, lines))


def describe_data(cohort: Cohort, findings: Sequence[Finding]) -> str:
    """Describes the data before training: the warnings on top, the cohort, and the pre-flight check."""
    parts = [describe_top(findings), _describe_cohort(cohort), describe_findings(findings)]
    return "\n".join(part for part in parts if part)


def describe_top(findings: Sequence[Finding]) -> str:
    """Returns the warnings that come first, one line each, or "" if there are none."""
    shown = [finding for finding in findings if is_on_top(finding.severity, finding.check)]
    return "\n".join(_on_one_line(f"WARNING: {finding.message}") for finding in shown)


def _on_one_line(text: str) -> str:
    """Replaces line breaks and other control characters, which names from quoted cells may hold, by spaces."""
    return "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)


def is_on_top(severity: str, check: str) -> bool:
    """Returns whether a finding of this severity and check comes first in the log and in the report."""
    return severity == "warning" and check in _ON_TOP


def describe_findings(findings: Sequence[Finding], everything: bool = False) -> str:
    """Returns the findings of the pre-flight check, one line each, without the warnings of `describe_top`.

    These are warnings and refusals. With `everything`, infos are included.
    """
    below = [finding for finding in findings if not is_on_top(finding.severity, finding.check)]
    shown = [finding for finding in below if everything or finding.severity != "info"]
    lines = [_on_one_line(f"  {finding.severity}: {finding.check}: {finding.message}") for finding in shown]
    nothing = ": nothing to warn about" if len(below) == len(findings) else ": nothing else to warn about"
    return "\n".join(["pre-flight check" + ("" if lines else nothing), *lines])


def _site_lines(cohort: Cohort) -> list[str]:
    width = max(len(name) for name in cohort.site_names)
    lines = []
    for index, name in enumerate(cohort.site_names):
        here = cohort.site == index
        if not here.any():  # all volumes of the site were left out
            lines.append(f"  site {name:<{width}}       0 rows")
            continue
        ranges = ", ".join(
            f"{covariate} {values.min():g} to {values.max():g} (median {np.median(values):g})"
            for covariate, values in zip(cohort.covariate_names, cohort.covariates[here].T, strict=True)
        )
        lines.append(f"  site {name:<{width}}  {here.sum():>6} rows, {_target_text(cohort, here)}; {ranges}")
    return lines


def _target_text(cohort: Cohort, here: np.ndarray) -> str:
    if cohort.target_classes:
        counts = (f"{label} {np.sum(cohort.target[here] == i)}" for i, label in enumerate(cohort.target_classes))
        return f"{cohort.target_name}: " + " / ".join(counts)
    known = cohort.target[here][np.isfinite(cohort.target[here])]
    return f"{cohort.target_name}: mean {known.mean():.3g}" if len(known) else f"{cohort.target_name}: unknown"


def describe_results(results: dict[str, Any], folder: pathlib.Path) -> str:
    """Returns the end of a run's output: metrics, scorecard, written files, the verdict, and the report's path."""
    kind = "SIMULATED data" if results["simulated"] else "real data"
    lines = [f"{results['dataset']} ({kind}), method {results['method']}, seed {results['seed']}, held-out rows:"]
    readings = read_metrics(results["metrics"])
    width = max((len(reading.label) for reading in readings), default=0)
    for reading in readings:
        lines.append(_on_one_line(f"  {reading.label:<{width}}  {reading.value:<24} {reading.text}"))
    lines.append(f"  took {results['wall_seconds']:.0f} s on {results['device']}")
    card = results.get("scorecard")  # runs of earlier versions have none
    scored = [] if card is None else map(_on_one_line, describe_scorecard(card))
    warning = results.get("training_warning", "")
    last = [f"WARNING: {warning}"] if warning else []
    report = RunFolder(folder).report_file
    last += describe_verdict_of_run(results, report if report.exists() else None)
    return "\n".join([*lines, *scored, describe_files(folder), *last])


def describe_verdict_of_run(results: dict[str, Any], report: pathlib.Path | None) -> list[str]:
    """Returns the last lines on a run: its verdict, if it has a scorecard, and its report's path, if there is one."""
    card = results.get("scorecard")
    said = [] if card is None else describe_verdict(card, results["metrics"].get("change_scale"))
    return [*said, *([] if report is None else [f"report: {report}"])]


def describe_verdict(card: Card, change_scale: float | None = None) -> list[str]:
    """Returns the lines of the verdict, in the words of the report."""
    return ["verdict:", *(_on_one_line(f"  {part}") for part in plain_verdict(card, change_scale))]


def describe_files(folder: pathlib.Path) -> str:
    """Lists the files of a run folder that are meant for its user, one path per line, the main product first."""
    products = RunFolder(folder).products
    return describe_paths(dict(products))


def describe_paths(what: Mapping[pathlib.Path, str], heading: str = "written:") -> str:
    """Lists paths with what they hold, one a line."""
    width = max((len(str(path)) for path in what), default=0)
    return "\n".join([heading, *(f"  {path!s:<{width}}  {held}" for path, held in what.items())])
