"""report.html: one file with its pictures, style and words inside; it loads nothing from anywhere."""

import base64
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

from eqpool.files import write_text
from eqpool.readings import Reading, read_metrics
from eqpool.report.comparison import compare_runs
from eqpool.report.figures import Drawn, write_figures
from eqpool.report.workfolder import WorkFolder, read_workfolder

# Of these, those that a run has open its report.
HEADLINES = (
    "strongest_probe_before",
    "strongest_probe_covariate_free",
    "strongest_probe",
    "kept_age_r_squared",
    "accuracy",
    "mae",
    "before_accuracy",
    "finetuned_accuracy",
    "before_mae",
    "finetuned_mae",
    "image_mmd_after",
)
VERDICTS = {"good": "as hoped", "bad": "not as hoped", "open": "not decided", "plain": ""}
MARKS = {"good": "✓", "bad": "✗", "open": "?", "plain": ""}
SEVERITIES = ("refusal", "warning", "info")


def write_report(folder: pathlib.Path, compared: Sequence[pathlib.Path] = ()) -> pathlib.Path:
    """Draws the figures of a finished work directory and writes its report.html; returns the page's path.

    Args:
      folder: the work directory.
      compared: those of other runs on the same data, which a table sets beside it; of baselines among them the latent
        is drawn beside tau.

    Raises:
      InputError: if a run is not finished, or one that is compared was made from other data.
    """
    comparison = compare_runs(folder, compared)
    work = dataclasses.replace(read_workfolder(folder), compared=tuple(map(read_workfolder, compared)))
    path = folder / "report.html"
    write_text(path, _render(work, write_figures(work), comparison))
    return path


def _render(work: WorkFolder, drawn: Sequence[Drawn], comparison: dict[str, Any] | None) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eqpool.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    readings = read_metrics(work.metrics)
    findings = sorted(work.results.get("preflight", []), key=lambda finding: SEVERITIES.index(finding["severity"]))
    return environment.get_template("page.html").render(
        name=work.config["name"],
        results=work.results,
        config=json.dumps(work.config, indent=2),
        headlines=_headlines(readings),
        readings={section: [r for r in readings if r.section == section] for section in ("removed", "kept", "images")},
        pictures={
            section: _pictures(drawn, section) for section in ("pooled", "removed", "kept", "images", "training")
        },
        findings=findings,
        comparison=comparison,
        verdicts=VERDICTS,
        marks=MARKS,
        classes=_classes(work.results["counts"]["by_site"]),
    )


def _headlines(readings: list[Reading]) -> list[Reading]:
    by_name = {reading.metric: reading for reading in readings}
    return [by_name[name] for name in HEADLINES if name in by_name]


def _pictures(drawn: Sequence[Drawn], section: str) -> list[dict[str, str]]:
    return [
        {
            "source": base64.b64encode(one.path.read_bytes()).decode(),
            "name": one.kind.name,
            "caption": one.caption,
            "alt": one.alt,
        }
        for one in drawn
        if one.kind.section == section
    ]


def _classes(by_site: dict[str, dict[str, int]]) -> list[str]:
    """The target's classes, in order; none for a number."""
    return list(dict.fromkeys(label for counts in by_site.values() for label in counts if label != "rows"))
