"""Minimum sample sizes of the figures. Each check returns "" or one line that replaces the picture.

Readers take a figure as a result even if it is drawn from too few rows. Each kind of figure therefore has a minimum:

- t-SNE: 21 rows. The perplexity (the effective number of neighbours) is a quarter of the number of rows here, and van
  der Maaten and Hinton (2008, section 2) recommend at least 5.
- A curve (a density, or a trend with its R²): 10 rows. With fewer rows the kernel of a density is wider than 0.6
  standard deviations of the data (Scott's rule, N^(-1/5)), so the curve shows the shape of the kernel.
- A t-map or a map of partial R²: 17 degrees of freedom. With fewer, a voxel has to share more than half of its variance
  with the target to reach even an uncorrected p < 0.001, because R² = t² / (t² + degrees of freedom).
"""

import numpy as np
from scipy.stats import t as student_t

from eqpool.report.workfolder import WorkFolder

FEWEST_TO_EMBED = 21
FEWEST_FOR_A_CURVE = 10
_UNCORRECTED = 1e-3
LARGEST_SHARE = 0.5  # fraction of a voxel's variance


def enough_to_embed(work: WorkFolder) -> str:
    """Checks that there are enough held-out rows for a t-SNE."""
    what = "a t-SNE of {} held-out rows shows nothing that can be relied on"
    return _enough_rows(work, FEWEST_TO_EMBED, what)


def enough_for_trend(work: WorkFolder) -> str:
    """Checks that there are enough held-out rows for a plot of predicted against true values."""
    return _enough_rows(work, FEWEST_FOR_A_CURVE, "{} held-out rows show no trend")


def _enough_rows(work: WorkFolder, fewest: int, what: str) -> str:
    """Checks that all latents are finite and `fewest` rows are held out. `what` names their number in braces."""
    if work.non_finite_rows:
        return f"left out: the latents of {work.non_finite_rows} rows are not finite"
    rows = len(work.rows("test"))
    return f"left out: {what.format(rows)}, which takes at least {fewest}" if rows < fewest else ""


def few_for_density(work: WorkFolder) -> str:
    """Returns the caption's remark about sites that have too few rows for a density, or "" if there are none."""
    assert work.pooled is not None
    rows = work.pooled["site"].value_counts()
    few = int((rows < FEWEST_FOR_A_CURVE).sum())
    if not few:
        return ""
    return f"{few} of {len(rows)} sites have fewer than {FEWEST_FOR_A_CURVE} rows: marks alone, no density."


def enough_for_maps(work: WorkFolder) -> str:
    """Checks that maps of t or partial R² have enough degrees of freedom.

    Maps written by older versions have no degrees of freedom and are always drawn.
    """
    assert work.maps is not None
    degrees = min((facts.get("degrees_of_freedom", np.inf) for facts in work.maps["forms"].values()), default=np.inf)
    few = too_few_degrees(degrees)
    return f"left out: {few}" if few else ""


def too_few_degrees(degrees_of_freedom: float) -> str:
    """Returns the reason why maps with so few degrees of freedom are not informative, or "" if there are enough."""
    share = share_needed(degrees_of_freedom)
    if share <= LARGEST_SHARE:
        return ""
    return (
        f"with {degrees_of_freedom:g} degrees of freedom a voxel has to share {share:.0%} of its variance with the "
        f"target to reach even an uncorrected p < {_UNCORRECTED:g}; at most {LARGEST_SHARE:.0%} can be asked of one, "
        "which takes more people"
    )


def share_needed(degrees_of_freedom: float) -> float:
    """Computes the partial R² at which a two-sided t-test reaches an uncorrected p = 0.001.

    It is t² / (t² + degrees of freedom).
    """
    if degrees_of_freedom < 1:
        return 1.0
    if np.isinf(degrees_of_freedom):
        return 0.0
    squared = float(student_t.isf(_UNCORRECTED / 2, degrees_of_freedom)) ** 2
    return squared / (squared + degrees_of_freedom)
