"""The page of a scorecard alone, without a run."""

import base64
import io
import pathlib
from functools import partial
from typing import Any

from eqpool.report.drawing import FigureFailed, protected
from eqpool.report.glossary import glossary
from eqpool.report.plain_verdict import plain_verdict
from eqpool.report.score_figure import CAPTION, describe_scorecard_figure, draw_scorecard
from eqpool.report.score_table import Card, judge_scorecard, score_table
from eqpool.report.templates import template
from eqpool.storage.files import write_text

_METHODS = {
    "calibrate": "site calibration (location, scale and covariance by empirical Bayes)",
    "combat": "ComBat",
    "ours": "site calibration and the networks of Lokhande et al. 2022",
}


def write_score_page(
    path: pathlib.Path, card: dict[str, Any], name: str, method: str, change_scale: float | None = None
) -> None:
    """Writes a scorecard (docs/metrics.md) as a page of HTML.

    Args:
      path: file to write.
      card: the scorecard.
      name: name of what was harmonised.
      method: "calibrate", "combat" or "ours".
      change_scale: factor on the networks' change, None without networks.
    """
    picture, absent = "", ""
    try:
        picture = protected(partial(_picture, card))
    except FigureFailed as failure:
        absent = f"The figure could not be drawn ({failure}). The same command draws it again."
    page = template("score_page.html").render(
        name=name,
        method=_METHODS[method],
        card=card,
        verdict=plain_verdict(card, change_scale),
        picture=picture,
        absent=absent,
        caption=CAPTION,
        alt=describe_scorecard_figure(card),
        scores=score_table(card),
        judgement=judge_scorecard(card),
        glossary=glossary(latents=False, images=False, istn=False),
    )
    write_text(path, page)


def _picture(card: Card) -> str:
    """Returns the figure of the scorecard as PNG in base64."""
    drawn = io.BytesIO()
    draw_scorecard(card).savefig(drawn, format="png", dpi=150)
    return base64.b64encode(drawn.getvalue()).decode()
