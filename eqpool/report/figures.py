"""The figures of a run, with their sections in the report, their captions and their alternative texts.

The figures are drawn with matplotlib's object interface, which needs no display and has no global state.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from eqpool.report.brain_maps import CORRECTION_TITLES, Correction, draw_share_maps, draw_t_maps
from eqpool.report.curves import FOLLOWERS, draw_training_curves, istn_levels
from eqpool.report.enough import enough_for_maps, enough_for_trend, enough_to_embed, few_for_density
from eqpool.report.formatting import format_metric, format_number
from eqpool.report.lettering import Figure, drawn_name
from eqpool.report.people import draw_groups, draw_samples
from eqpool.report.sites import PROBES, draw_by_site, draw_embeddings, draw_probes, embed
from eqpool.report.transformations import draw_transformations
from eqpool.report.trend import draw_covariate_trend
from eqpool.report.workfolder import WorkFolder

MOST_POINTS = 1500  # limits the time of t-SNE, and more points would hide each other


class FigureKind(NamedTuple):
    """One kind of figure of the report.

    Attributes:
      name: stem of its file names in figures/.
      section: section of the report: pooled, removed, kept, images or training.
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


def _covariate_by_site(work: WorkFolder) -> Figure:
    assert work.pooled is not None
    return draw_by_site(work.spreads, work.pooled["site"].to_numpy(dtype=np.str_))


def _covariate_by_site_alt(work: WorkFolder) -> str:
    assert work.pooled is not None
    said = []
    for name, values in work.spreads.items():
        medians = values.groupby(work.pooled["site"]).median().sort_values()
        said.append(
            f"Density of {name} at each of {len(medians)} sites; medians run from {medians.iloc[0]:.3g} "
            f"({medians.index[0]}) to {medians.iloc[-1]:.3g} ({medians.index[-1]})."
        )
    return " ".join(said)


def _spreads_remark(work: WorkFolder) -> str:
    names = work.spreads_left_out
    room = f"Left out for want of room: {', '.join(names)}; pooled.tsv has them." if names else ""
    return f"{few_for_density(work)} {room}".strip()


def _probes_alt(work: WorkFolder) -> str:
    metrics = work.metrics
    said = [
        f"{key.replace('_', ' ')} {format_metric(metrics, key)}" for key, _ in PROBES if metrics.get(key) is not None
    ]
    return f"Dots with 95% intervals: {'; '.join(said)}; chance {format_number(metrics.get('site_chance'))}."


def _embeddings(work: WorkFolder) -> Figure:
    rows = np.random.default_rng(0).permutation(work.rows("test"))[:MOST_POINTS]
    points = {"latent l, before": embed(work.vectors("l")[rows]), "Phi, after": embed(work.vectors("phi")[rows])}
    return draw_embeddings(points, work.sites[rows], work.site_names, work.covariate_values[rows], work.covariate)


def _tau_by_group(work: WorkFolder) -> Figure:
    assert work.tau is not None
    rows = work.tau["rows"]
    points = {
        "latent l": embed(work.vectors("l")[rows]),
        "tau": embed(work.tau["tau"].reshape(len(rows), -1)),
    }
    baselines = [other for other in work.compared if other.tau is None and other.embeddings is not None]
    points |= {f"latent of {other.results['method']}": embed(other.vectors("l")[rows]) for other in baselines}
    return draw_groups(points, work.covariate_values[rows], work.covariate)


def _trend(work: WorkFolder) -> Figure:
    vectors = {"latent l, before": work.vectors("l"), "Phi, after": work.vectors("phi")}
    return draw_covariate_trend(
        vectors,
        work.covariate_values,
        work.sites,
        work.site_names,
        work.rows("train"),
        work.rows("test"),
        work.covariate,
    )


def _trend_alt(work: WorkFolder) -> str:
    key = f"kept_{work.covariate}_r_squared"
    said = f"; R squared from Phi {format_metric(work.metrics, key)}" if work.metrics.get(key) is not None else ""
    return f"Scatter of the {work.covariate} that is read from l and from Phi against the true one{said}."


def _samples(work: WorkFolder) -> Figure:
    assert work.samples is not None
    return draw_samples(work.samples, work.covariate)


def _t_maps(correction: Correction, work: WorkFolder) -> Figure:
    assert work.maps is not None
    return draw_t_maps(work.folder, work.maps, correction)


def _t_maps_alt(correction: Correction, work: WorkFolder) -> str:
    assert work.maps is not None
    forms = work.maps["forms"].items()
    counts = ", ".join(f"{form.replace('_', ' ')} {facts[f'voxels_{correction}']}" for form, facts in forms)
    passed = f"voxels that pass {CORRECTION_TITLES[correction]}"
    return f"Axial slices of t-maps of {work.maps['contrast']}; {passed}: {counts}."


def _share_maps(name: str, beyond: str, work: WorkFolder) -> Figure:
    assert work.maps is not None
    return draw_share_maps(work.folder, work.maps, name, f"partial R² of {drawn_name(name)}, beyond {beyond}")


def _has_share_maps(name: str, work: WorkFolder) -> bool:
    return work.maps is not None and all(f"r2_{name}_mean" in facts for facts in work.maps["forms"].values())


def _share_maps_alt(name: str, work: WorkFolder) -> str:
    assert work.maps is not None
    forms = work.maps["forms"].items()
    means = ", ".join(f"{form.replace('_', ' ')} {facts[f'r2_{name}_mean']:.3f}" for form, facts in forms)
    return f"Axial slices of the share of each voxel's variance that {name} explains; means: {means}."


def _transformations(work: WorkFolder) -> Figure:
    assert work.examples is not None
    return draw_transformations(work.examples)


def _curves_alt(work: WorkFolder) -> str:
    stages = ", ".join(
        f"{stage}: {count} epochs" for stage, count in work.log["stage"].value_counts(sort=False).items()
    )
    return f"Training loss and validation score over epochs: {stages}."


def _followers(work: WorkFolder) -> str:
    if not set(FOLLOWERS) <= set(work.log.columns):
        return ""
    return (
        "The ISTN's ring says which transformers were kept: those whose images were nearest to the reference's. A "
        "discriminator that tells all images apart teaches the generator nothing. The models that are retrained on S2T "
        "have rings of their own: each was kept at its lowest loss on what the kept transformers make, from that epoch "
        "on."
    )


def _has_covariate(work: WorkFolder) -> bool:
    return work.embeddings is not None


FIGURES = (
    FigureKind(
        "covariate_by_site",
        "pooled",
        lambda work: work.pooled is not None and len(work.spreads.columns) > 0,
        _covariate_by_site,
        "Who was pooled: density of what config.data.described names, of covariates and of a numeric target at each "
        "site. Where sites do not overlap in a covariate, only the model's assumptions separate it from the scanner.",
        _covariate_by_site_alt,
        _spreads_remark,
    ),
    FigureKind(
        "site_probes",
        "removed",
        lambda work: work.metrics.get("strongest_probe") is not None,
        lambda work: draw_probes(work.metrics),
        "Balanced accuracy of the strongest of several probes that predict the site, with 95% intervals. Phi keeps the "
        "covariate on purpose: compare it with the site floor, the accuracy from covariates and target, and compare "
        "tau^-1 Phi with chance.",
        _probes_alt,
    ),
    FigureKind(
        "latent_maps",
        "removed",
        _has_covariate,
        _embeddings,
        "Held-out rows before and after pooling (t-SNE). Sites should mix, the covariate's trend should stay. "
        "Distances between far points mean nothing.",
        lambda work: f"Scatter plots of held-out rows before and after pooling, by site and by {work.covariate}.",
        too_little=enough_to_embed,
    ),
    FigureKind(
        "site_maps",
        "removed",
        partial(_has_share_maps, "site"),
        partial(_share_maps, "site", "covariates and target"),
        "Where the scanner shows: partial R^2 of the site beyond covariates and target, on one colour scale; pooling "
        "should darken it.",
        partial(_share_maps_alt, "site"),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "covariate_maps",
        "kept",
        lambda work: work.embeddings is not None and _has_share_maps(work.covariate, work),
        lambda work: _share_maps(work.covariate, "site, target and other covariates", work),
        "Where the covariate shows: its partial R^2 beyond site, target and other covariates, on one colour scale. "
        "Pooling should leave it as it was, where it takes the site's away.",
        lambda work: _share_maps_alt(work.covariate, work),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "covariate_trend",
        "kept",
        _has_covariate,
        _trend,
        "The covariate that a ridge regression reads from held-out rows, before and after pooling, against the true "
        "one; the line is perfect.",
        _trend_alt,
        too_little=enough_for_trend,
    ),
    FigureKind(
        "tau_by_group",
        "kept",
        lambda work: work.tau is not None,
        _tau_by_group,
        "Held-out rows by group of the covariate (t-SNE): tau should order them, whatever the scanner, more than the "
        "latent of a baseline, where one is compared.",
        lambda work: f"Scatter plots of l, of tau and of compared baselines' latents, by group of {work.covariate}.",
        too_little=enough_to_embed,
    ),
    FigureKind(
        "t_maps_bonferroni",
        "kept",
        lambda work: work.maps is not None,
        partial(_t_maps, "bonferroni"),
        "Where the target shows, as in the paper: voxels that pass Bonferroni, on decodes by networks that never saw "
        "the volume. A pure decode spreads the information of its latent over every voxel: its places are those of the "
        "latent and not of disease.",
        partial(_t_maps_alt, "bonferroni"),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "t_maps",
        "kept",
        lambda work: work.maps is not None,
        partial(_t_maps, "fdr"),
        "The same t at the more voxels that pass FDR, in the same colours: Bonferroni bounds the chance of a single "
        "false voxel, FDR the expected share of false ones among those shown.",
        partial(_t_maps_alt, "fdr"),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "target_maps",
        "kept",
        lambda work: _has_share_maps(work.target, work),
        lambda work: _share_maps(work.target, "site and covariates", work),
        "How much of each voxel the target explains, whatever its sign and significance: partial R^2 beyond site and "
        "covariates, on one colour scale.",
        lambda work: _share_maps_alt(work.target, work),
        too_little=enough_for_maps,
    ),
    FigureKind(
        "sample_images",
        "images",
        lambda work: work.samples is not None,
        _samples,
        "Held-out scans by scanner and covariate: the input, the input plus the change, and the change.",
        lambda work: "Axial slices of held-out scans of every site: input, harmonised, and the difference.",
    ),
    FigureKind(
        "transformations",
        "images",
        lambda work: work.examples is not None,
        _transformations,
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
        _curves_alt,
        _followers,
    ),
)
