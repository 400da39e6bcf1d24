"""The scorecard as one figure: each measure of the raw input, of ComBat and of what is handed back, with its levels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from eqpool.report.formatting import format_number, is_defined
from eqpool.report.lettering import Figure, drawn_name
from eqpool.report.plain_verdict import percent
from eqpool.report.score_table import VERSIONS, Card, truth_named
from eqpool.report.style import INK

CAPTION = (
    "The held-out rows in each version, with 95% intervals. The version with a star is handed back. The floor is the "
    "accuracy from age, diagnosis and the like alone."
)
_HANDED_BACK, _LEVELS = "#0072B2", "#595959"
_WIDTH_INCHES, _LINE_INCHES = 4.6, 0.27  # narrow, so that its letters can be read on a telephone
_MARGIN_INCHES, _TICKS_INCHES, _TITLES_INCHES = 0.2, 0.27, 0.72


class Panel(NamedTuple):
    """A panel of the figure.

    Attributes:
      key: name of the score.
      title: what is measured, and which way is better.
      levels: label, key of the level and line style of each vertical line.
      is_share: whether the score is a share, drawn from 0 to 100 %.
    """

    key: str
    title: str
    levels: tuple[tuple[str, str, str], ...] = ()
    is_share: bool = False


_PANELS = (
    Panel(
        "site",
        "site classification accuracy (lower is better)",
        (("chance", "site_chance", "--"), ("floor", "site_floor", ":")),
        True,
    ),
    Panel(
        "covariate_mae_within_sites",
        "mean error of {covariate} within sites (lower is better)",
        (("always the median", "constant_covariate_mae_within_sites", "--"),),
    ),
    Panel(
        "target_balanced_accuracy",
        "balanced accuracy of {target} (higher is better)",
        (("chance", "target_chance", "--"),),
        True,
    ),
    Panel(
        "target_mae", "mean error of {target} (lower is better)", (("always the median", "constant_target_mae", "--"),)
    ),
    Panel("error_to_truth", "error to the truth (lower is better)"),
)


def draw_scorecard(card: Card) -> Figure:
    """Draws one panel for each measure, with one line for each version: a dot and its 95% interval.

    The calibration alone is left out where it is the same as what is handed back.
    """
    versions, panels = drawn_versions(card), _panels(card)
    shown = [_shown(versions, panel) for panel in panels]
    heights = [len(names) * _LINE_INCHES + _MARGIN_INCHES for names in shown]
    size = (_WIDTH_INCHES, sum(heights) + _TITLES_INCHES * len(panels) + 0.2)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.07))
    grid = figure.subplots(max(len(panels), 1), 1, squeeze=False, height_ratios=heights or None)[:, 0]
    for axes, panel, names in zip(grid, panels, shown, strict=False):
        _draw(axes, card, panel, names)
    return figure


def describe_scorecard_figure(card: Card) -> str:
    """Lists the numbers that the figure shows."""
    names, said = drawn_versions(card), []
    for panel in _panels(card):
        shown = [
            f"{_label(card, name)} {_number(card['versions'][name].get(panel.key), panel)}"
            for name in _shown(names, panel)
        ]
        said.append(f"{_title(card, panel)}: {', '.join(shown)}")
    return f"Dots with 95% intervals. {'; '.join(said)}."


def drawn_versions(card: Card) -> list[str]:
    """Returns the versions in the figure, from its top."""
    versions, own = card["versions"], card["handed_back"]
    return [name for name in versions if not (name == "calibrated" and _look_alike(versions[name], versions.get(own)))]


def _look_alike(scores: dict[str, Any], others: dict[str, Any] | None) -> bool:
    pairs = [(scores.get(panel.key), (others or {}).get(panel.key)) for panel in _PANELS]
    return all(format_number(one) == format_number(other) for one, other in pairs)


def _panels(card: Card) -> list[Panel]:
    return [
        panel for panel in _PANELS if any(is_defined(scores.get(panel.key)) for scores in card["versions"].values())
    ]


def _shown(names: list[str], panel: Panel) -> list[str]:
    """Returns the versions in a panel. The truth has no error to itself."""
    return [name for name in names if (name, panel.key) != ("truth", "error_to_truth")]


def _draw(axes: Axes, card: Card, panel: Panel, names: Sequence[str]) -> None:
    ends = [1.0] if panel.is_share else []
    for line, name in enumerate(names):
        scores, place = card["versions"][name], len(names) - 1 - line
        value: Any = scores.get(panel.key)
        if not is_defined(value):
            continue
        own = name == card["handed_back"]
        colour, interval = _HANDED_BACK if own else INK, scores.get(f"{panel.key}_interval")
        low, high = interval if interval and is_defined(interval) else (value, value)
        axes.plot([low, high], [place, place], color=colour, linewidth=3 if own else 1.5, solid_capstyle="butt")
        axes.plot(value, place, "o" if name != "truth" else "D", color=colour, markersize=7 if own else 5)
        axes.annotate(
            _number(value, panel),
            (1, place),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
            weight="bold" if own else "normal",
        )
        ends.append(high)
    levels = [(label, card["levels"].get(key), style) for label, key, style in panel.levels]
    for label, value, style in levels:
        if is_defined(value):
            axes.axvline(value, color=_LEVELS, linestyle=style, linewidth=1.2, label=f"{label} {_number(value, panel)}")
            ends.append(value)
    axes.set_yticks(range(len(names)), [_label(card, name) for name in names][::-1], fontsize=9)
    for text, name in zip(axes.get_yticklabels(), names[::-1], strict=True):
        if name == card["handed_back"]:
            text.set(color=_HANDED_BACK, weight="bold")
    axes.set(xlim=(0, 1.03 if panel.is_share else 1.08 * max(ends)), ylim=(-0.6, len(names) - 0.4))
    if panel.is_share:
        axes.set_xticks(np.linspace(0, 1, 5), ["0", "25%", "50%", "75%", "100%"])
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(_title(card, panel), fontsize=9.5, loc="left", x=0)
    if any(is_defined(value) for _, value, _ in levels):
        below = -_TICKS_INCHES / (len(names) * _LINE_INCHES + _MARGIN_INCHES)
        options: dict[str, Any] = {"ncols": 2, "frameon": False, "fontsize": 8.5, "borderpad": 0}
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, below), **options)


def _title(card: Card, panel: Panel) -> str:
    names = {"covariate": drawn_name(card["covariate"], 14), "target": drawn_name(card["target"], 14)}
    title = panel.title
    for key, name in names.items():
        title = title.replace(f"{{{key}}}", name)
    return title.replace("the truth", f"the truth, {card.get('unit', 'z-scores')}")


def _label(card: Card, name: str) -> str:
    label = truth_named(card) if name == "truth" else VERSIONS.get(name, name)
    return f"{label} *" if name == card["handed_back"] else label


def _number(value: Any, panel: Panel) -> str:
    if not is_defined(value):
        return "not defined"
    return percent(value) if panel.is_share else format_number(value)
