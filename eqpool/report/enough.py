"""Whether a run's rows are enough for a picture; each answer is "" or the line that stands in the picture's place.

A picture of too few rows is read as a result all the same. So each kind has a least number of rows, with its reason:

- t-SNE: 21 rows. Its perplexity, the number of neighbours that it keeps, is a quarter of the rows here, and van der
  Maaten and Hinton (2008, section 2) recommend at least 5.
- A curve (a density, a trend with its R²): 10 rows. Below, a density's kernel is wider than 0.6 deviations of the data
  (Scott's rule, N^(-1/5)), so that its shape is the kernel's.
- A t-map or a map of partial R²: 17 degrees of freedom. Below, a voxel has to share more than half of its variance with
  the target to reach even an uncorrected p < 0.001, R² = t² / (t² + degrees of freedom).
"""

import numpy as np
from scipy.stats import t as student_t

from eqpool.report.workfolder import WorkFolder

FEWEST_TO_EMBED = 21
FEWEST_FOR_A_CURVE = 10
UNCORRECTED = 1e-3
LARGEST_SHARE = 0.5  # of a voxel's variance


def enough_to_embed(work: WorkFolder) -> str:
    """For a t-SNE of held-out rows."""
    rows = len(work.rows("test"))
    if work.non_finite_rows:
        return _not_finite(work)
    if rows < FEWEST_TO_EMBED:
        return f"left out: a t-SNE of {rows} held-out rows shows nothing that can be relied on, which takes at least 21"
    return ""


def enough_for_trend(work: WorkFolder) -> str:
    """For a regression's predictions against the truth, on held-out rows."""
    rows = len(work.rows("test"))
    if work.non_finite_rows:
        return _not_finite(work)
    if rows < FEWEST_FOR_A_CURVE:
        return f"left out: {rows} held-out rows show no trend, which takes at least {FEWEST_FOR_A_CURVE}"
    return ""


def few_for_density(work: WorkFolder) -> str:
    """What the caption says of sites whose rows are marks without a density."""
    assert work.pooled is not None
    rows = work.pooled["site"].value_counts()
    few = int((rows < FEWEST_FOR_A_CURVE).sum())
    if not few:
        return ""
    return f"{few} of {len(rows)} sites have fewer than {FEWEST_FOR_A_CURVE} rows: marks alone, no density."


def enough_for_maps(work: WorkFolder) -> str:
    """For maps of t or partial R² over voxels; maps of an older version, without degrees of freedom, are drawn."""
    assert work.maps is not None
    degrees = min((facts.get("degrees_of_freedom", np.inf) for facts in work.maps["forms"].values()), default=np.inf)
    few = too_few_degrees(degrees)
    return f"left out: {few}" if few else ""


def too_few_degrees(degrees_of_freedom: float) -> str:
    """Why maps of so many degrees of freedom mean nothing; "" where they may."""
    share = share_needed(degrees_of_freedom)
    if share <= LARGEST_SHARE:
        return ""
    return (
        f"with {degrees_of_freedom:g} degrees of freedom a voxel has to share {share:.0%} of its variance with the "
        f"target to reach even an uncorrected p < {UNCORRECTED:g}; at most {LARGEST_SHARE:.0%} can be asked of one, "
        "which takes more people"
    )


def share_needed(degrees_of_freedom: float) -> float:
    """The partial R² at which a two-sided t-test reaches p = 0.001, uncorrected: t² / (t² + degrees of freedom)."""
    if degrees_of_freedom < 1:
        return 1.0
    if np.isinf(degrees_of_freedom):
        return 0.0
    squared = float(student_t.isf(UNCORRECTED / 2, degrees_of_freedom)) ** 2
    return squared / (squared + degrees_of_freedom)


def _not_finite(work: WorkFolder) -> str:
    return f"left out: the latents of {work.non_finite_rows} rows are not finite"
