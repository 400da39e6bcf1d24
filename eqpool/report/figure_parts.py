"""Draws each figure of a run from its files, and describes it in words."""

import numpy as np

from eqpool.report.brain_maps import CORRECTION_TITLES, Correction, draw_share_maps, draw_t_maps
from eqpool.report.curves import FOLLOWERS
from eqpool.report.enough import few_for_density
from eqpool.report.formatting import format_metric, format_number
from eqpool.report.lettering import Figure, drawn_name
from eqpool.report.people import draw_groups, draw_samples
from eqpool.report.sites import PROBES, draw_by_site, draw_embeddings, embed
from eqpool.report.transformations import draw_transformations
from eqpool.report.trend import draw_covariate_trend
from eqpool.report.workfolder import WorkFolder

MOST_POINTS = 1500  # limits the time of t-SNE, and more points would hide each other


def draw_spreads(work: WorkFolder) -> Figure:
    """Draws the covariates, the numeric target and the described columns at each site."""
    assert work.pooled is not None
    return draw_by_site(work.spreads, work.pooled["site"].to_numpy(dtype=np.str_))


def describe_spreads(work: WorkFolder) -> str:
    """Describes the medians of these columns over sites."""
    assert work.pooled is not None
    said = []
    for name, values in work.spreads.items():
        medians = values.groupby(work.pooled["site"]).median().sort_values()
        said.append(
            f"Density of {name} at each of {len(medians)} sites; medians run from {medians.iloc[0]:.3g} "
            f"({medians.index[0]}) to {medians.iloc[-1]:.3g} ({medians.index[-1]})."
        )
    return " ".join(said)


def remark_on_spreads(work: WorkFolder) -> str:
    """Names the columns without room, and the sites with too few rows for a density."""
    names = work.spreads_left_out
    room = f"Left out for want of room: {', '.join(names)}; pooled.tsv has them." if names else ""
    return f"{few_for_density(work)} {room}".strip()


def describe_probes(work: WorkFolder) -> str:
    """Lists the accuracies of the probes of the site, and chance."""
    metrics = work.metrics
    said = [
        f"{key.replace('_', ' ')} {format_metric(metrics, key)}" for key, _ in PROBES if metrics.get(key) is not None
    ]
    return f"Dots with 95% intervals: {'; '.join(said)}; chance {format_number(metrics.get('site_chance'))}."


def draw_latents(work: WorkFolder) -> Figure:
    """Draws a t-SNE of held-out l and Phi."""
    rows = np.random.default_rng(0).permutation(work.rows("test"))[:MOST_POINTS]
    points = {
        "before pooling (l)": embed(work.vectors("l")[rows]),
        "after pooling (Phi)": embed(work.vectors("phi")[rows]),
    }
    return draw_embeddings(points, work.sites[rows], work.site_names, work.covariate_values[rows], work.covariate)


def draw_tau(work: WorkFolder) -> Figure:
    """Draws a t-SNE of l, of tau and of the latents of compared baselines."""
    assert work.tau is not None
    rows = work.tau["rows"]
    points = {
        "latent before pooling": embed(work.vectors("l")[rows]),
        "tau": embed(work.tau["tau"].reshape(len(rows), -1)),
    }
    baselines = [other for other in work.compared if other.tau is None and other.embeddings is not None]
    points |= {f"latent of {other.results['method']}": embed(other.vectors("l")[rows]) for other in baselines}
    return draw_groups(points, work.covariate_values[rows], work.covariate)


def draw_trend(work: WorkFolder) -> Figure:
    """Draws the covariate that is read from l and from Phi."""
    vectors = {"before pooling (l)": work.vectors("l"), "after pooling (Phi)": work.vectors("phi")}
    return draw_covariate_trend(
        vectors,
        work.covariate_values,
        work.sites,
        work.site_names,
        work.rows("train"),
        work.rows("test"),
        work.covariate,
    )


def describe_trend(work: WorkFolder) -> str:
    """Describes that figure, with the R^2 from Phi."""
    key = f"kept_{work.covariate}_r_squared"
    said = f"; R squared from Phi {format_metric(work.metrics, key)}" if work.metrics.get(key) is not None else ""
    return f"Scatter of the {work.covariate} that is predicted from l and from Phi against the true one{said}."


def draw_sample_images(work: WorkFolder) -> Figure:
    """Draws held-out scans before and after."""
    assert work.samples is not None
    return draw_samples(work.samples, work.covariate)


def draw_target_maps(correction: Correction, work: WorkFolder) -> Figure:
    """Draws the t-maps of the target, by one correction."""
    assert work.maps is not None
    return draw_t_maps(work.folder, work.maps, correction)


def describe_target_maps(correction: Correction, work: WorkFolder) -> str:
    """Counts the voxels that pass the correction in each form."""
    assert work.maps is not None
    forms = work.maps["forms"].items()
    counts = ", ".join(f"{form.replace('_', ' ')} {facts[f'voxels_{correction}']}" for form, facts in forms)
    passed = f"voxels that pass {CORRECTION_TITLES[correction]}"
    return f"Axial slices of t-maps of {work.maps['contrast']}; {passed}: {counts}."


def draw_shares(name: str, beyond: str, work: WorkFolder) -> Figure:
    """Draws the maps of partial R^2 of one regressor, beyond the others."""
    assert work.maps is not None
    return draw_share_maps(work.folder, work.maps, name, f"partial R² of {drawn_name(name)}, beyond {beyond}")


def has_shares(name: str, work: WorkFolder) -> bool:
    """Returns whether the run has maps of partial R^2 of one regressor."""
    return work.maps is not None and all(f"r2_{name}_mean" in facts for facts in work.maps["forms"].values())


def describe_shares(name: str, work: WorkFolder) -> str:
    """Lists the mean partial R^2 of each form."""
    assert work.maps is not None
    forms = work.maps["forms"].items()
    means = ", ".join(f"{form.replace('_', ' ')} {facts[f'r2_{name}_mean']:.3f}" for form, facts in forms)
    return f"Axial slices of the share of each voxel's variance that {name} explains; means: {means}."


def draw_example_images(work: WorkFolder) -> Figure:
    """Draws held-out subjects on the way to the reference site."""
    assert work.examples is not None
    return draw_transformations(work.examples)


def describe_curves(work: WorkFolder) -> str:
    """Counts the epochs of each stage."""
    stages = ", ".join(
        f"{stage}: {count} epochs" for stage, count in work.log["stage"].value_counts(sort=False).items()
    )
    return f"Training loss and validation score over epochs: {stages}."


def remark_on_followers(work: WorkFolder) -> str:
    """Explains the rings of the networks that were kept at epochs of their own, or returns ""."""
    if not set(FOLLOWERS) <= set(work.log.columns):
        return ""
    return (
        "The ISTN's ring marks the networks that were kept: those whose images were nearest to the reference's. A "
        "discriminator that distinguishes all images teaches the generator nothing. The models that are retrained on "
        "S2T have rings of their own. Each was kept at its lowest loss on images of the kept ISTN, from that epoch on."
    )
