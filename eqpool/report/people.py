"""Figures of subjects: embeddings by age group, and slices of their scans before and after pooling."""

from typing import Any

import numpy as np

from eqpool.report.lettering import Figure, drawn_name, drawn_names

_AGE_COLOURS = ("#440154", "#3B528B", "#21918C", "#5EC962", "#FDE725")
_KINDS = ("input", "harmonised", "change")
_MOST_SITES_WITH_TWO = 3  # subjects each in the figure of scans
_GROUPS = 4  # quantile groups of the covariate


def covariate_groups(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Returns the quantile group of each value, (N,) int, and the range of each group as text."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _GROUPS + 1)))
    group = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    return group, [f"{low:.0f} to {high:.0f}" for low, high in zip(edges[:-1], edges[1:], strict=True)]


def draw_groups(points: dict[str, np.ndarray], values: np.ndarray, covariate: str) -> Figure:
    """Draws one panel per embedding, coloured by covariate group (Lokhande et al. 2022, Figs. 4 and 9).

    Args:
      points: (N, 2) coordinates by title.
      values: (N,) covariate.
      covariate: name of the covariate.
    """
    group, labels = covariate_groups(values)
    figure = Figure(figsize=(2.5 * max(len(points), 2), 2.9), layout="constrained")
    for axes, (title, places) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        for number, label in enumerate(labels):
            colour = _AGE_COLOURS[number * (len(_AGE_COLOURS) - 1) // max(len(labels) - 1, 1)]
            axes.scatter(*places[group == number].T, color=colour, s=10, linewidths=0.2, edgecolor="k", label=label)
        axes.set(title=title, xticks=[], yticks=[])
    handles, labels = axes.get_legend_handles_labels()
    options: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": "small", "ncols": 4}
    figure.legend(handles, labels, title=drawn_name(covariate), **options)
    return figure


def draw_samples(samples: dict[str, np.ndarray], covariate: str) -> Figure:
    """Draws axial slices of held-out subjects, one line for each: the input, the harmonised scan and the change.

    With few sites the two subjects with the lowest and the highest covariate of each are drawn, else the middle one.

    Args:
      samples: `site` (S,) names, `covariate` (S,), and `input`, `harmonised`, `change` (S, x, y) in z-scores. Every
        site has the same number of samples, which are consecutive and sorted by the covariate.
      covariate: name of the covariate.
    """
    sites = list(dict.fromkeys(samples["site"].tolist()))
    labels = drawn_names(sites, 14)
    shown = _shown(len(samples["site"]) // len(sites), len(sites))
    figure = Figure(figsize=(4.4, 1.35 * len(shown) + 1.1), layout="constrained")
    grid = figure.subplots(len(shown), len(_KINDS), squeeze=False)
    low, high = np.quantile(samples["input"][samples["input"] != 0], (0.01, 0.99))
    most = max(float(np.abs(samples["change"]).max()), 1e-6)
    for line, (site, number) in zip(grid, shown, strict=True):
        background = samples["input"][number].T == 0
        for axes, name in zip(line, _KINDS, strict=True):
            plane = samples[name][number].T
            if name == "change":
                picture = axes.imshow(plane, cmap="RdBu_r", origin="lower", vmin=-most, vmax=most)
            else:
                plane = np.where(background, min(low, 0), plane)
                axes.imshow(plane, cmap="gray", origin="lower", vmin=min(low, 0), vmax=high)
            axes.set(xticks=[], yticks=[])
        person = f"{drawn_name(covariate, 10)} {samples['covariate'][number]:.0f}"
        line[0].set_ylabel(f"{labels[site]}\n{person}", fontsize=9)
    for axes, name in zip(grid[0], _KINDS, strict=True):
        axes.set_title(name, fontsize=10)
    bar = figure.colorbar(picture, ax=grid, location="bottom", shrink=0.6, aspect=30)
    bar.set_label("change, z-scores", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _shown(each: int, sites: int) -> list[tuple[int, int]]:
    """Returns the site and the index of each subject that is drawn, of `each` subjects of every site."""
    places = sorted({0, each - 1}) if sites <= _MOST_SITES_WITH_TWO else [each // 2]
    return [(site, site * each + place) for site in range(sites) for place in places]
