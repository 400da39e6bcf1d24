"""Scores what an ISTN hands back: S2T of the other sites' images, beside the reference's images as they are."""

import pathlib
from typing import Any

import numpy as np

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.reference_view import reference_views
from eqpool.evaluate.scorecard import RAW, TRUTH
from eqpool.evaluate.scored_rows import choose_rows
from eqpool.methods.derivatives import to_z_scores
from eqpool.methods.handed_back import ISTN, score_images
from eqpool.methods.istn_volumes import Harmonise
from eqpool.methods.scored_voxels import sub_grid
from eqpool.storage.progress import track


def score_istn(
    cohort: Cohort, config: RunConfig, cache_dir: pathlib.Path, harmonise: Harmonise, reference: int
) -> dict[str, Any]:
    """Makes the scorecard of an ISTN.

    One image is in memory at a time, beside at most 10 000 voxels, or all pixels, of the scored rows.

    Args:
      cohort: cohort of images in [-1, 1].
      config: config of the run.
      cache_dir: the run's cache, in which simulated cohorts and digits are found again.
      harmonise: function by `eqpool.methods.istn_volumes.make_harmonise`.
      reference: index of the reference site.
    """
    rows = choose_rows(cohort.split, cohort.participant_id, config.seed)
    chosen = np.arange(np.prod(cohort.inputs.shape[1:]))
    if cohort.volumes is not None:
        chosen = np.flatnonzero(sub_grid(cohort.volumes.grid))

    def values(image: np.ndarray) -> np.ndarray:
        return to_z_scores(image, config.data.squash).ravel()[chosen]

    raw = np.empty((len(rows), len(chosen)), np.float32)
    handed_back = np.empty_like(raw)
    for place, row in enumerate(track(rows, "Harmonising for the scorecard", unit="image")):
        image, site = np.asarray(cohort.inputs[int(row)]), int(cohort.site[row])
        raw[place] = values(image)
        changes = site not in (-1, reference)  # an image of an unknown site is not written
        handed_back[place] = values(harmonise(image, site).image) if changes else raw[place]
    versions = {RAW: raw, ISTN: handed_back}
    views = reference_views(cohort, config.data, rows, cohort.site_names[reference], cache_dir)
    if views is not None:
        shown = track(views, "Making the truth", unit="image", total=len(rows))
        versions[TRUTH] = np.stack([values(view) for view in shown])
    return score_images(cohort, config, rows, versions, reference)
