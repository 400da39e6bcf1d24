"""Figures of subjects: embeddings by age group, and slices of their scans before and after pooling."""

import numpy as np

from eqpool.report.lettering import Figure, drawn_name, drawn_names

_AGE_COLOURS = ("#440154", "#3B528B", "#21918C", "#5EC962", "#FDE725")
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
    figure = Figure(figsize=(4.2 * len(points), 4.2), layout="constrained")
    for axes, (title, places) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        for number, label in enumerate(labels):
            colour = _AGE_COLOURS[number * (len(_AGE_COLOURS) - 1) // max(len(labels) - 1, 1)]
            axes.scatter(*places[group == number].T, color=colour, s=18, linewidths=0.2, edgecolor="k", label=label)
        axes.set(title=title, xticks=[], yticks=[])
    axes.legend(title=drawn_name(covariate), frameon=False, fontsize="small", loc="best")
    return figure


def draw_samples(samples: dict[str, np.ndarray], covariate: str) -> Figure:
    """Draws axial slices of held-out subjects, with one row per scanner and one column per subject and image.

    The images of a subject are the input, the harmonised scan and the change.

    Args:
      samples: `site` (S,) names, `covariate` (S,), and `input`, `harmonised`, `change` (S, x, y) in z-scores. Every
        site has the same number of samples, which are consecutive and sorted by the covariate.
      covariate: name of the covariate.
    """
    sites = list(dict.fromkeys(samples["site"].tolist()))
    labels = drawn_names(sites, 18)
    each = len(samples["site"]) // len(sites)
    figure = Figure(figsize=(1.15 * 3 * each + 1.2, 1.5 * len(sites) + 0.9), layout="constrained")
    grid = figure.subplots(len(sites), 3 * each, squeeze=False)
    low, high = np.quantile(samples["input"][samples["input"] != 0], (0.01, 0.99))
    most = max(float(np.abs(samples["change"]).max()), 1e-6)
    for number in range(each * len(sites)):
        line, place = divmod(number, each)
        for kind, name in enumerate(("input", "harmonised", "change")):
            axes = grid[line, 3 * place + kind]
            plane = samples[name][number].T
            changed = name == "change"
            limits = {"vmin": -most, "vmax": most} if changed else {"vmin": min(low, 0), "vmax": high}
            if not changed:
                plane = np.where(samples["input"][number].T == 0, limits["vmin"], plane)
            picture = axes.imshow(plane, cmap="RdBu_r" if changed else "gray", origin="lower", **limits)
            axes.set(xticks=[], yticks=[])
            person = f"{drawn_name(covariate, 12)} {samples['covariate'][number]:.0f}: " if not kind else ""
            axes.set_title(f"{person}{name}", fontsize=7)
        grid[line, 0].set_ylabel(labels[line], fontsize=9)
    figure.colorbar(picture, ax=grid, label="change, z-scores", shrink=0.7)
    return figure
