"""The page report.html: a single file that contains its pictures and style, and loads nothing else."""

import base64
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from eqpool.config.methods import makes_images
from eqpool.report.comparison import compare_runs
from eqpool.report.drawing import Drawn, write_figures
from eqpool.report.figures import FIGURES, FigureKind
from eqpool.report.glossary import Glossary, glossary
from eqpool.report.plain_verdict import plain_verdict
from eqpool.report.score_table import judge_scorecard, score_table
from eqpool.report.summary import is_on_top
from eqpool.report.templates import template
from eqpool.report.verdicts import Reading, read_metrics
from eqpool.report.workfolder import WorkFolder, read_workfolder
from eqpool.storage.files import write_text
from eqpool.storage.run_folder import NON_FINITE_ROWS, RunFolder

# The report begins with these metrics, as far as the run has them.
_HEADLINES = (
    NON_FINITE_ROWS,
    "strongest_probe_before",
    "strongest_probe_covariate_free",
    "strongest_probe",
    "kept_{}_r_squared",  # {} is the first covariate
    "accuracy",
    "mae",
    "before_accuracy",
    "finetuned_accuracy",
    "before_mae",
    "finetuned_mae",
    "image_mmd_after",
)
_VERDICTS = {"good": "as hoped", "bad": "not as hoped", "open": "not decided", "plain": ""}
_MARKS = {"good": "✓", "bad": "✗", "open": "?", "plain": ""}
_WIDE = ("_maps", "_bonferroni")  # figures with a line of slices of the brain
_SEVERITIES = ("refusal", "warning", "info")


def write_report(
    folder: pathlib.Path, compared: Sequence[pathlib.Path] = (), kinds: Sequence[FigureKind] = FIGURES
) -> pathlib.Path:
    """Draws the figures of a finished work directory and writes its report.html.

    Args:
      folder: work directory of the run.
      compared: work directories of other runs on the same data. A table compares them with this run, and the latents of
        the baselines among them are drawn beside tau.
      kinds: kinds of the figures to draw, all by default.

    Returns:
      The path of the page.

    Raises:
      InputError: a run is not finished, or a compared run used other data.
    """
    comparison = compare_runs(folder, compared)
    work = dataclasses.replace(read_workfolder(folder), compared=tuple(map(read_workfolder, compared)))
    path = RunFolder(folder).report_file
    write_text(path, _render(work, write_figures(work, kinds), comparison))
    return path


def _render(work: WorkFolder, drawn: Sequence[Drawn], comparison: dict[str, Any] | None) -> str:
    card = work.results.get("scorecard")  # runs of earlier versions have none
    readings, sites = read_metrics(work.metrics), _sites(work.results["counts"]["by_site"])
    found = work.results.get("preflight", [])
    below = [finding for finding in found if not is_on_top(finding["severity"], finding["check"])]
    findings = sorted(below, key=lambda finding: _SEVERITIES.index(finding["severity"]))
    return template("page.html").render(
        name=study_name(work),
        top=_top(work.results, found),
        results=work.results,
        makes_images=makes_images(work.results["method"]),
        config=json.dumps(work.config, indent=2),
        card=card,
        rows_named="rows" if work.samples is None and not makes_images(work.results["method"]) else "scans",
        verdict=[] if card is None else plain_verdict(card, work.metrics.get("change_scale")),
        glossary=_glossary(work),
        scores=None if card is None else score_table(card),
        judgement=[] if card is None else judge_scorecard(card),
        headlines=_headlines(readings, work.facts.get("covariate_names", ["age"])),
        readings={section: [r for r in readings if r.section == section] for section in ("removed", "kept", "images")},
        pictures={
            section: _pictures(drawn, section)
            for section in ("scorecard", "pooled", "removed", "kept", "images", "training")
        },
        findings=findings,
        comparison=comparison,
        verdicts=_VERDICTS,
        marks=_MARKS,
        sites=sites,
        classes=list(dict.fromkeys(label for _, _, of_class in sites for label in of_class)),
    )


def _glossary(work: WorkFolder) -> Glossary:
    method = work.results["method"]
    return glossary(
        latents=work.embeddings is not None,
        images=work.samples is not None or work.examples is not None,
        istn=makes_images(method),
    )


def study_name(work: WorkFolder) -> str:
    """Returns the name of the study that was pooled.

    It is the config's name for a dataset that comes with eqpool. For the user's own table it is the table's folder if
    the file is called participants.*, else the stem of the file. The work directory's name is used if that is empty.
    """
    if work.results.get("dataset") != "participants":
        return work.config["name"]
    table = pathlib.PurePath(work.config["data"]["participants"])
    return (table.parent.name if table.stem == "participants" else table.stem) or work.folder.path.resolve().name


def _top(results: dict[str, Any], findings: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the warnings at the top of the page.

    They say that latents are not finite, that training went wrong, that too few subjects are held out, and that the
    volumes do not lie on the template.
    """
    broken, of_training = results["metrics"].get(NON_FINITE_ROWS), results.get("training_warning", "")
    not_finite = f"The latents of {broken} rows are not finite: no pooling result can be read from this run"
    shown = [finding for finding in findings if is_on_top(finding["severity"], finding["check"])]
    said = [not_finite] * bool(broken) + [of_training] * bool(of_training)
    return said + [finding["message"][:1].upper() + finding["message"][1:] for finding in shown]


def _headlines(readings: list[Reading], covariates: Sequence[str]) -> list[Reading]:
    by_name = {reading.metric: reading for reading in readings}
    names = [name.replace("{}", covariates[0]) if covariates else name for name in _HEADLINES]
    return [by_name[name] for name in names if name in by_name]


def _pictures(drawn: Sequence[Drawn], section: str) -> list[dict[str, Any]]:
    """Returns the template's fields of each figure. `absent` holds the reason if a figure has no picture."""
    return [
        {
            "source": base64.b64encode(one.path.read_bytes()).decode() if one.path else "",
            "name": one.kind.name,
            "caption": one.caption,
            "alt": one.alt,
            "absent": one.absent,
            "narrow": not one.kind.name.endswith(_WIDE),
        }
        for one in drawn
        if one.kind.section == section
    ]


def _sites(by_site: dict[str, dict[str, Any]]) -> list[tuple[str, int, dict[str, int]]]:
    """Returns each site with its number of rows and the rows of each class, which is empty for a numeric target.

    Runs from before 2026-12 store the classes next to `rows` instead of under `classes`. There, a class with the name
    "rows" replaced the number of rows.
    """
    return [
        (site, counts["rows"], counts.get("classes", {name: n for name, n in counts.items() if name != "rows"}))
        for site, counts in by_site.items()
    ]
