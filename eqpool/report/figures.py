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
        "Who was pooled: density of what config.data.described names, of covariates and of a numeric target at each "
        "site. Where sites do not overlap in a covariate, only the model's assumptions separate it from the scanner.",
        describe_spreads,
        remark_on_spreads,
    ),
    FigureKind(
        "site_probes",
        "removed",
        lambda work: work.metrics.get("strongest_probe") is not None,
        lambda work: draw_probes(work.metrics),
        "Balanced accuracy of the strongest of several probes that predict the site, with 95% intervals. Phi keeps the "
        "covariate on purpose: compare it with the site floor, the accuracy from covariates and target, and compare "
        "tau^-1 Phi with chance.",
        describe_probes,
    ),
    FigureKind(
        "latent_maps",
        "removed",
        _has_covariate,
        draw_latents,
        "Held-out rows before and after pooling (t-SNE). Sites should mix, the covariate's trend should stay. "
        "Distances between far points mean nothing.",
        lambda work: f"Scatter plots of held-out rows before and after pooling, by site and by {work.covariate}.",
        too_little=enough_to_embed,
    ),
    FigureKind(
        "site_maps",
        "removed",
        partial(has_shares, "site"),
        partial(draw_shares, "site", "covariates and target"),
        "Where the scanner shows: partial R^2 of the site beyond covariates and target, on one colour scale; pooling "
        "should darken it.",
        partial(describe_shares, "site"),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "covariate_maps",
        "kept",
        lambda work: work.embeddings is not None and has_shares(work.covariate, work),
        lambda work: draw_shares(work.covariate, "site, target and other covariates", work),
        "Where the covariate shows: its partial R^2 beyond site, target and other covariates, on one colour scale. "
        "Pooling should leave it as it was, where it takes the site's away.",
        lambda work: describe_shares(work.covariate, work),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "covariate_trend",
        "kept",
        _has_covariate,
        draw_trend,
        "The covariate that a ridge regression reads from held-out rows, before and after pooling, against the true "
        "one; the line is perfect.",
        describe_trend,
        too_little=enough_for_trend,
    ),
    FigureKind(
        "tau_by_group",
        "kept",
        lambda work: work.tau is not None,
        draw_tau,
        "Held-out rows by group of the covariate (t-SNE): tau should order them, whatever the scanner, more than the "
        "latent of a baseline, where one is compared.",
        lambda work: f"Scatter plots of l, of tau and of compared baselines' latents, by group of {work.covariate}.",
        too_little=enough_to_embed,
    ),
    FigureKind(
        "t_maps_bonferroni",
        "kept",
        lambda work: work.maps is not None,
        partial(draw_target_maps, "bonferroni"),
        "Where the target shows, as in the paper: voxels that pass Bonferroni, on decodes by networks that never saw "
        "the volume. A pure decode spreads the information of its latent over every voxel: its places are those of the "
        "latent and not of disease.",
        partial(describe_target_maps, "bonferroni"),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "t_maps",
        "kept",
        lambda work: work.maps is not None,
        partial(draw_target_maps, "fdr"),
        "The same t at the more voxels that pass FDR, in the same colours: Bonferroni bounds the chance of a single "
        "false voxel, FDR the expected share of false ones among those shown.",
        partial(describe_target_maps, "fdr"),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "target_maps",
        "kept",
        lambda work: has_shares(work.target, work),
        lambda work: draw_shares(work.target, "site and covariates", work),
        "How much of each voxel the target explains, whatever its sign and significance: partial R^2 beyond site and "
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
        "change should be smooth and show no anatomy.",
        lambda work: "Axial slices of held-out scans of every site: input, harmonised, and the difference.",
    ),
    FigureKind(
        "transformations",
        "images",
        lambda work: work.examples is not None,
        draw_example_images,
        "Held-out subjects on the way to the reference site, one row a step, then what changed and, where shape moves, "
        "its deformation (log2 Jacobian: 1 where it was shrunk to half its volume); last, other people's images of the "
        "reference.",
        lambda work: "Images of held-out subjects before and after, and what changed, one column each.",
    ),
    FigureKind(
        "training_curves",
        "training",
        lambda work: len(work.log) > 0,
        lambda work: draw_training_curves(work.log, work.keeps_last, istn_levels(work.metrics, work.config)),
        "Training loss and validation score. The ring is the epoch that was kept: that of the lowest score, or the "
        "last where the stage's keep_epoch says so. A dashed line marks it in the other panels.",
        describe_curves,
        remark_on_followers,
    ),
)
