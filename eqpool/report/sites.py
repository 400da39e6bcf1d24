"""Figures by site: densities of the covariates, site classification accuracy, and scatter plots of the embeddings."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import gaussian_kde
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from eqpool.report.enough import FEWEST_FOR_A_CURVE
from eqpool.report.formatting import is_defined
from eqpool.report.lettering import Figure, drawn_name, drawn_names
from eqpool.report.style import INK, WIDTH_INCHES, legend_below, scatter_sites, site_style

_PANELS_A_LINE = 2
_SHORT_NAME = 12  # characters; a longer name gets a line of its own under the panel
PROBES = (
    ("strongest_probe_before", "before\npooling (l)"),
    ("strongest_probe", "after pooling\n(Phi)"),
    ("strongest_probe_covariate_free", "without the covariate\n(tau^-1 Phi)"),
)


def draw_by_site(table: pd.DataFrame, sites: np.ndarray) -> Figure:
    """Draws one panel per column, three side by side, with one line per site (Lokhande et al. 2022, Figs. 6 and 10).

    A line shows the density of the site's values above a mark for every row.

    Args:
      table: (N, C) numbers, NaN if missing.
      sites: (N,) site names.
    """
    names, count = sorted(set(sites)), table.shape[1]
    lines = -(-count // _PANELS_A_LINE)
    size = (WIDTH_INCHES, lines * (0.38 * len(names) + 1.0))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines, min(count, _PANELS_A_LINE), sharey=True, squeeze=False)
    for axes in grid.flat[count:]:
        axes.remove()
    for axes, (column, values) in zip(grid.flat, table.items(), strict=False):
        _draw_lines(axes, values.to_numpy(), sites, names)
        between = " " if len(str(column)) <= _SHORT_NAME else "\n"
        axes.set(xlabel=f"{drawn_name(str(column), 24)}{between}(dot: median)", ylim=(-0.3, len(names) + 0.1))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    drawn = zip(names, drawn_names(names), strict=True)
    labels = [f"{short} (n = {np.sum(sites == name)})" for name, short in drawn][::-1]
    grid[0, 0].set_yticks(range(len(names)), labels)  # all panels share these ticks
    return figure


def _draw_lines(axes: Axes, values: np.ndarray, sites: np.ndarray, names: list[str]) -> None:
    grid = np.linspace(np.nanmin(values), np.nanmax(values), 300)
    for line, name in enumerate(reversed(names)):
        here, colour = values[(sites == name) & np.isfinite(values)], site_style(names.index(name)).colour
        axes.plot(here, np.full(len(here), line - 0.06), "|", color=colour, markersize=5, alpha=0.5)
        if len(here) >= FEWEST_FOR_A_CURVE and len(np.unique(here)) > 2:
            density = gaussian_kde(here)(grid)
            height = line + 0.9 * density / density.max()
            axes.plot(grid, height, color=colour, linewidth=1.5)
            axes.fill_between(grid, line, height, color=colour, alpha=0.15)
        if len(here):
            axes.plot(np.median(here), line + 0.12, "o", color=colour, markersize=4)


def draw_probes(metrics: dict[str, Any]) -> Figure:
    """Draws the accuracy of the strongest probe for the site before and after pooling, with chance and site floor."""
    metrics = {key: value for key, value in metrics.items() if is_defined(value)}
    shown = [(key, label) for key, label in PROBES if key in metrics][::-1]
    figure = Figure(figsize=(WIDTH_INCHES, 0.6 * len(shown) + 1.5), layout="constrained")
    axes = figure.subplots()
    for line, (key, _) in enumerate(shown):
        low, high = metrics.get(f"{key}_interval") or (metrics[key], metrics[key])
        axes.plot([low, high], [line, line], color=INK, linewidth=2, solid_capstyle="butt")
        axes.plot(metrics[key], line, "o", color=INK, markersize=7)
        axes.annotate(f"{metrics[key]:.2f}", (metrics[key], line), (0, 7), textcoords="offset points", ha="center")
    chance, floor = metrics.get("site_chance"), metrics.get("site_floor")
    if chance is not None:
        axes.axvline(chance, color="#0072B2", linestyle="--", label=f"chance, {chance:.2f}")
    if floor is not None:
        axes.axvline(floor, color="#D55E00", linestyle=":", linewidth=2, label=f"site floor, {floor:.2f}")
        band: dict[str, Any] = {"color": "#D55E00", "alpha": 0.12, "linewidth": 0, "label": "its 95% interval"}
        axes.axvspan(*(metrics.get("site_floor_interval") or (floor, floor)), **band)
    for line, (key, _) in enumerate(shown):
        if f"{key}_shuffled_interval" in metrics:
            ends = metrics[f"{key}_shuffled_interval"]
            axes.plot(ends, [line - 0.2] * 2, color="#0072B2", linewidth=2, label="sites shuffled, 95%")
    axes.set_yticks(range(len(shown)), [label for _, label in shown])
    axes.set(xlim=(0, 1.02), ylim=(-0.6, len(shown) - 0.3), xlabel="site classification accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_embeddings(
    points: dict[str, np.ndarray], sites: np.ndarray, names: list[str], values: np.ndarray, covariate: str
):
    """Draws each embedding twice, coloured by site (above) and by the covariate (below).

    Args:
      points: (N, 2) coordinates by title.
      sites: (N,) site name of each row.
      names: names of all sites, in the order of their styles.
      values: (N,) covariate.
      covariate: name of the covariate.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 5.2), layout="constrained")
    grid = figure.subplots(2, len(points))
    low, high = np.quantile(values, (0.02, 0.98))
    for column, (title, places) in enumerate(points.items()):
        scatter_sites(grid[0, column], places, sites, names)
        image = grid[1, column].scatter(
            *places.T, c=values, cmap="viridis", vmin=low, vmax=high, s=10, linewidths=0.3, edgecolors=INK
        )
        _plain(grid[0, column], f"{title}, by site")
        _plain(grid[1, column], f"{title}, by {drawn_name(covariate)}")
    figure.colorbar(image, ax=grid[1, :], label=drawn_name(covariate), shrink=0.8, extend="both")
    legend_below(figure, grid[0, 0], names)
    return figure


def embed(vectors: np.ndarray) -> np.ndarray:
    """Returns (N, 2) coordinates of (N, n) vectors by t-SNE. Up to three vectors are placed on a line instead."""
    if len(vectors) < 4:
        return np.stack([np.arange(len(vectors)), np.zeros(len(vectors))], axis=1)
    perplexity = min(30, max(2, (len(vectors) - 1) // 4))
    with threadpool_limits(limits=1):  # on two shared cores, OpenMP's busy waiting takes 57 s instead of 13 s
        return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors.astype(np.float32))


def _plain(axes: Axes, title: str) -> None:
    axes.set(title=title, xticks=[], yticks=[])
