"""The page of a scorecard alone, without a run."""

import pathlib
from typing import Any

from eqpool.report.score_table import judge_scorecard, score_table
from eqpool.report.templates import template
from eqpool.storage.files import write_text

_METHODS = {
    "calibrate": "site calibration (location, scale and covariance by empirical Bayes)",
    "combat": "ComBat",
    "ours": "site calibration and the networks of Lokhande et al. 2022",
}


def write_score_page(path: pathlib.Path, card: dict[str, Any], name: str, method: str) -> None:
    """Writes a scorecard (docs/metrics.md) as a page of HTML.

    Args:
      path: file to write.
      card: the scorecard.
      name: name of what was harmonised.
      method: "calibrate", "combat" or "ours".
    """
    page = template("score_page.html").render(
        name=name, method=_METHODS[method], card=card, scores=score_table(card), judgement=judge_scorecard(card)
    )
    write_text(path, page)
