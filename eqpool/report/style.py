"""The style of the sites in every figure. Both colour and marker distinguish the sites."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eqpool.report.lettering import drawn_names, legend_of

# The contrast to white is at least 3:1. The colours stay distinct for readers with red- or green-deficient sight
# (tests/report/test_style.py).
SITE_COLOURS = ("#0072B2", "#D55E00", "#009988", "#882255", "#000000", "#5B3A1E")
SITE_MARKERS = ("o", "^", "s", "D", "v")  # 5 markers and 6 colours are coprime, which gives 30 pairs
INK, SIMULATED = "#1A1A1A", "#B00020"
WIDTH_INCHES = 5.0  # of a figure, whose letters can then be read on a page of 400 pixels
_MOST_LEGEND_COLUMNS = 6
_LINE_INCHES = 0.19  # of a legend


class SiteStyle(NamedTuple):
    """A site's colour and marker."""

    colour: str
    marker: str


def site_style(index: int) -> SiteStyle:
    """Returns the style of the site with this index."""
    return SiteStyle(SITE_COLOURS[index % len(SITE_COLOURS)], SITE_MARKERS[index % len(SITE_MARKERS)])


def scatter_sites(axes: Axes, points: np.ndarray, sites: np.ndarray, names: list[str]) -> None:
    """Draws points (N, 2), each in the style of its site (N,).

    `names` holds the names of all sites, in the order of their styles.
    """
    for index, name in enumerate(names):
        here = points[sites == name]
        colour, marker = site_style(index)
        axes.scatter(here[:, 0], here[:, 1], color=colour, marker=marker, s=11, linewidths=0, alpha=0.8)


def legend_below(figure: Figure, axes: Axes, names: list[str]) -> None:
    """Adds one legend of the sites under the panels of a figure, which grows by the lines that it needs.

    `axes` are axes on which `scatter_sites` drew the sites `names` first.
    """
    drawn = drawn_names(names)
    columns = max(
        1, min(_MOST_LEGEND_COLUMNS, len(names), int(10 * figure.get_figwidth() / (max(map(len, drawn)) + 5)))
    )
    figure.set_figheight(figure.get_figheight() + _LINE_INCHES * (-(-len(names) // columns) - 1))
    options = {"loc": "outside lower center", "frameon": False, "fontsize": "small", "markerscale": 1.5}
    legend_of(figure, axes.collections[: len(names)], drawn, ncols=columns, **options)
