"""The figures of a run, drawn with matplotlib's object interface: no display, no global state."""

import pathlib
from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from eqpool.files import write_atomically
from eqpool.report.brain_maps import draw_site_maps, draw_t_maps
from eqpool.report.people import draw_groups, draw_samples
from eqpool.report.transformations import draw_transformations
from eqpool.report.workfolder import WorkFolder

# Okabe and Ito's palette: told apart with colour-deficient sight.
SITE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MOST_POINTS = 1500  # t-SNE's time, and more points than this hide each other


def draw_all(work: WorkFolder, progress: Callable[[str], None] = lambda _: None) -> dict[str, Figure]:
    """Every figure that this run's files allow, by file name without extension."""
    drawn = EMBEDDING_FIGURES if work.embeddings is not None else {}
    if work.examples is not None:
        drawn = drawn | {"transformations": transformations}
    if work.tau is not None:
        drawn = drawn | {"tau_by_group": tau_by_group}
    if work.samples is not None:
        drawn = drawn | {"sample_images": sample_images}
    if work.maps is not None:
        drawn = drawn | {"t_maps": t_maps, "site_maps": site_maps}
    figures = {}
    for name, draw in (drawn | {"training_curves": training_curves}).items():
        progress(name)
        figures[name] = draw(work)
    return figures


def covariate_by_site(work: WorkFolder) -> Figure:
    """Density of the covariate for each site (paper A, Fig. 6 and 10)."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    values = work.table[work.covariate]
    grid = np.linspace(values.min(), values.max(), 200)
    for colour, (site, rows) in zip(_colours(work), work.table.groupby("site"), strict=False):
        here = rows[work.covariate].to_numpy()
        if len(np.unique(here)) > 2:
            density = gaussian_kde(here)(grid)
            axes.plot(grid, density, color=colour, label=f"{site} (n = {len(here)})", linewidth=2)
            axes.fill_between(grid, density, color=colour, alpha=0.12)
    axes.set(xlabel=work.covariate, ylabel="density", ylim=(0, None))
    axes.legend(frameon=False)
    return _finish(figure, work)


def training_curves(work: WorkFolder) -> Figure:
    """Loss and validation score over the epochs of each stage."""
    stages = list(dict.fromkeys(work.metrics["stage"]))
    figure = Figure(figsize=(3.6 * max(len(stages), 1), 3.2), layout="constrained")
    for axes, stage in zip(np.atleast_1d(figure.subplots(1, len(stages))), stages, strict=True):
        rows = work.metrics[work.metrics["stage"] == stage]
        axes.plot(rows["epoch"], rows["loss"], color=SITE_COLOURS[0], label="training loss")
        axes.plot(rows["epoch"], rows["validation_score"], color=SITE_COLOURS[5], label="validation score")
        axes.set(title=stage.replace("_", " "), xlabel="epoch")
        axes.legend(frameon=False)
    return _finish(figure, work)


def latent_maps(work: WorkFolder) -> Figure:
    """t-SNE of l (before) and Phi (after) on held-out rows, coloured by site and by covariate."""
    rows = np.flatnonzero(work.table["split"] == "test")
    rows = np.random.default_rng(0).permutation(rows)[:MOST_POINTS]
    figure = Figure(figsize=(8, 7), layout="constrained")
    grid = figure.subplots(2, 2)
    for column, (prefix, title) in enumerate((("l", "latent l, before"), ("phi", "Phi, after"))):
        points = _embed(work.vectors(prefix)[rows])
        _scatter_sites(grid[0, column], points, work, rows, title)
        image = grid[1, column].scatter(
            *points.T, c=work.table[work.covariate].to_numpy()[rows], cmap="viridis", s=14, linewidths=0
        )
        grid[1, column].set(title=f"{title}, by {work.covariate}", xticks=[], yticks=[])
    figure.colorbar(image, ax=grid[1, :], label=work.covariate, shrink=0.8)
    return _finish(figure, work)


def transformations(work: WorkFolder) -> Figure:
    """What the ISTN did to held-out subjects (paper B, Figs. 3 and 4)."""
    assert work.examples is not None
    return _finish(draw_transformations(work.examples), work)


def tau_by_group(work: WorkFolder) -> Figure:
    """t-SNE of the latent, which knows scanner and age, and of tau, which should know age (paper A, Figs. 4 and 9)."""
    assert work.tau is not None
    rows = work.tau["rows"]
    points = {
        "latent l": _embed(work.vectors("l")[rows]),
        "tau": _embed(work.tau["tau"].reshape(len(rows), -1)),
    }
    values = work.table[work.covariate].to_numpy()[rows]
    return _finish(draw_groups(points, values, work.covariate), work)


def sample_images(work: WorkFolder) -> Figure:
    """Held-out scans by scanner and covariate, before and after (paper A, Figs. 2 and 7)."""
    assert work.samples is not None
    return _finish(draw_samples(work.samples, work.covariate), work)


def t_maps(work: WorkFolder) -> Figure:
    """Voxelwise t of the target, before and after pooling (paper A, Fig. 5)."""
    assert work.maps is not None
    return _finish(draw_t_maps(work.folder, work.maps), work)


def site_maps(work: WorkFolder) -> Figure:
    """What the site explains of each voxel, before and after pooling."""
    assert work.maps is not None
    return _finish(draw_site_maps(work.folder, work.maps), work)


EMBEDDING_FIGURES: dict[str, Callable[[WorkFolder], Figure]] = {
    "covariate_by_site": covariate_by_site,
    "latent_maps": latent_maps,
}


def save(figures: dict[str, Figure], folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes each figure as PNG and SVG under `folder`; returns the PNG paths."""
    paths = []
    for name, figure in figures.items():
        write_atomically(folder / f"{name}.svg", figure.savefig)
        write_atomically(folder / f"{name}.png", partial(figure.savefig, dpi=150))
        paths.append(folder / f"{name}.png")
    return paths


def _scatter_sites(axes, points: np.ndarray, work: WorkFolder, rows: np.ndarray, title: str) -> None:
    sites = work.table["site"].to_numpy()
    for colour, site in zip(_colours(work), sorted(set(sites)), strict=False):
        here = sites[rows] == site
        axes.scatter(*points[here].T, color=colour, s=14, linewidths=0, alpha=0.8, label=site)
    axes.set(title=f"{title}, by site", xticks=[], yticks=[])
    if len(set(sites)) <= len(SITE_COLOURS):
        axes.legend(frameon=False, loc="best", fontsize="small")


def _embed(vectors: np.ndarray) -> np.ndarray:
    perplexity = min(30, max(2, (len(vectors) - 1) // 4))
    with threadpool_limits(limits=1):  # OpenMP's busy waiting: 57 s instead of 13 s where two cores are shared
        return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors.astype(np.float32))


def _colours(work: WorkFolder) -> list[str]:
    count = work.table["site"].nunique()
    return [SITE_COLOURS[index % len(SITE_COLOURS)] for index in range(count)]


def _finish(figure: Figure, work: WorkFolder) -> Figure:
    if work.results["simulated"]:
        figure.suptitle("SIMULATED DATA", x=0.995, ha="right", fontsize=8, color="#B00020", weight="bold")
    return figure
