"""The figures of a run, with their sections in the report, their captions and their alternative texts.

The figures are drawn with matplotlib's object interface, which needs no display and has no global state.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from eqpool.report.curves import draw_training_curves, istn_levels
from eqpool.report.enough import enough_for_maps, enough_for_trend, enough_to_embed
from eqpool.report.figure_parts import (
    describe_curves,
    describe_probes,
    describe_shares,
    describe_spreads,
    describe_target_maps,
    describe_trend,
    draw_example_images,
    draw_latents,
    draw_sample_images,
    draw_shares,
    draw_spreads,
    draw_target_maps,
    draw_tau,
    draw_trend,
    has_shares,
    remark_on_followers,
    remark_on_spreads,
)
from eqpool.report.lettering import Figure
from eqpool.report.score_figure import CAPTION, describe_scorecard_figure, draw_scorecard
from eqpool.report.sites import draw_probes
from eqpool.report.workfolder import WorkFolder


class FigureKind(NamedTuple):
    """One kind of figure of the report.

    Attributes:
      name: stem of its file names in figures/.
      section: section of the report: scorecard, pooled, removed, kept, images or training.
      exists: function that returns True if a run's files allow this figure.
      draw: function that draws the figure.
      caption: text below the figure.
      alt: function that describes the figure of a run in words.
      remark: function that returns an addition to the caption for a run, or "".
      too_little: function that returns one line if a run has too few rows for this figure, or "" if it has enough
        (`eqpool.report.enough`).
    """

    name: str
    section: str
    exists: Callable[[WorkFolder], bool]
    draw: Callable[[WorkFolder], Figure]
    caption: str
    alt: Callable[[WorkFolder], str]
    remark: Callable[[WorkFolder], str] = lambda work: ""
    too_little: Callable[[WorkFolder], str] = lambda work: ""


def _has_covariate(work: WorkFolder) -> bool:
    return work.embeddings is not None


FIGURES = (
    FigureKind(
        "scorecard",
        "scorecard",
        lambda work: work.results.get("scorecard") is not None,
        lambda work: draw_scorecard(work.results["scorecard"]),
        CAPTION,
        lambda work: describe_scorecard_figure(work.results["scorecard"]),
    ),
    FigureKind(
        "covariate_by_site",
        "pooled",
        lambda work: work.pooled is not None and len(work.spreads.columns) > 0,
        draw_spreads,
        "Who was pooled: the density at each site, with a mark for every row. Where sites do not overlap in a "
        "covariate, only the model's assumptions separate it from the scanner.",
        describe_spreads,
        remark_on_spreads,
    ),
    FigureKind(
        "site_probes",
        "removed",
        lambda work: work.metrics.get("strongest_probe") is not None,
        lambda work: draw_probes(work.metrics),
        "How well the strongest of several classifiers predicts the site from the latent, with 95% intervals. Phi "
        "keeps the covariate on purpose, so compare it with the floor. Compare tau^-1 Phi with chance.",
        describe_probes,
    ),
    FigureKind(
        "latent_maps",
        "removed",
        _has_covariate,
        draw_latents,
        "Held-out rows before and after pooling (t-SNE). The sites should mix, and the trend with the covariate should "
        "stay. Distances between far points mean nothing.",
        lambda work: f"Scatter plots of held-out rows before and after pooling, by site and by {work.covariate}.",
        too_little=enough_to_embed,
    ),
    FigureKind(
        "site_maps",
        "removed",
        partial(has_shares, "site"),
        partial(draw_shares, "site", "covariates and target"),
        "Where the scanner shows: partial R² of the site beyond covariates and target, on one colour scale. Pooling "
        "should darken it.",
        partial(describe_shares, "site"),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "covariate_maps",
        "kept",
        lambda work: work.embeddings is not None and has_shares(work.covariate, work),
        lambda work: draw_shares(work.covariate, "site, target and other covariates", work),
        "Where the covariate shows: its partial R² beyond site, target and other covariates, on one colour scale. "
        "Pooling should leave it as it was.",
        lambda work: describe_shares(work.covariate, work),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "covariate_trend",
        "kept",
        _has_covariate,
        draw_trend,
        "The covariate that a ridge regression predicts from the latent of held-out rows, before and after pooling. On "
        "the dashed line the prediction is right.",
        describe_trend,
        too_little=enough_for_trend,
    ),
    FigureKind(
        "tau_by_group",
        "kept",
        lambda work: work.tau is not None,
        draw_tau,
        "Held-out rows by group of the covariate (t-SNE). Tau should put them in order, whatever the scanner. The "
        "latent of a compared baseline should do so less.",
        lambda work: f"Scatter plots of l, of tau and of compared baselines' latents, by group of {work.covariate}.",
        too_little=enough_to_embed,
    ),
    FigureKind(
        "t_maps_bonferroni",
        "kept",
        lambda work: work.maps is not None,
        partial(draw_target_maps, "bonferroni"),
        "Where the target shows: t at the voxels that pass Bonferroni's correction, as in the paper. The networks that "
        "decoded a volume never saw it in training. A decode spreads its latent over every voxel, so its places are "
        "not those of disease.",
        partial(describe_target_maps, "bonferroni"),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "t_maps",
        "kept",
        lambda work: work.maps is not None,
        partial(draw_target_maps, "fdr"),
        "The same t at the voxels that pass FDR, in the same colours. Bonferroni bounds the chance of a single false "
        "voxel. FDR bounds the expected share of false ones among those shown, and so more voxels pass.",
        partial(describe_target_maps, "fdr"),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "target_maps",
        "kept",
        lambda work: has_shares(work.target, work),
        lambda work: draw_shares(work.target, "site and covariates", work),
        "How much of each voxel's variance the target explains, significant or not: partial R² beyond site and "
        "covariates, on one colour scale.",
        lambda work: describe_shares(work.target, work),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "sample_images",
        "images",
        lambda work: work.samples is not None,
        draw_sample_images,
        "Held-out scans by scanner and covariate: the input, the harmonised scan, and the change between them. The "
        "change should be smooth, but for thin lines along edges where scanners blur differently.",
        lambda work: "Axial slices of held-out scans of every site: input, harmonised, and the difference.",
    ),
    FigureKind(
        "transformations",
        "images",
        lambda work: work.examples is not None,
        draw_example_images,
        "Held-out people on the way to the look of the reference site, one line for each step. Below stand the changes "
        "and, where the shape moves, its deformation (a log2 Jacobian of 1 means shrunk to half the volume). The last "
        "line shows other people at the reference site.",
        lambda work: "Images of held-out subjects before and after, and what changed, one column each.",
    ),
    FigureKind(
        "training_curves",
        "training",
        lambda work: len(work.log) > 0,
        lambda work: draw_training_curves(work.log, work.keeps_last, istn_levels(work.metrics, work.config)),
        "Training loss and validation score. The ring marks the epoch that was kept: the one with the lowest score, or "
        "the last if the stage's keep_epoch says so. A dashed line marks it in the other panels.",
        describe_curves,
        remark_on_followers,
    ),
)
