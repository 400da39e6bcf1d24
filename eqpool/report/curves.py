"""Training curves: the loss and the validation score of every stage, and what was kept and why."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from eqpool.evaluate.collapse import CHANCE_LOSS, least_discriminator_loss
from eqpool.report.lettering import Figure
from eqpool.report.style import SITE_COLOURS, WIDTH_INCHES

# Validation losses of an ISTN's retrained models. Each model has its own kept epoch (`eqpool.engine.state.Stage`).
FOLLOWERS = {
    "validation_scratch": "loss on S2T, from scratch",
    "validation_finetuned": "loss on S2T, fine-tuned",
}
_GAME = {"discriminator": "discriminator loss", "generator": "generator loss"}
_KEPT = "{}_epoch"  # column with the epoch at which a follower is kept so far
_PANELS = {"loss": "training loss", "validation_score": "validation score"}

Levels = Mapping[str, Mapping[str, float]]


class Kept(NamedTuple):
    """A kept epoch and the reason."""

    epoch: int
    why: str


def istn_levels(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> Levels:
    """Returns the levels that the curves of an ISTN are held against, by column and name, as far as they are known."""
    untouched, softness = metrics.get("selection_score_before"), config.get("istn", {}).get("softness")
    levels: dict[str, Mapping[str, float]] = {}
    if untouched is not None:
        levels["validation_score"] = {"images as they are": untouched}
    if softness is not None:
        levels["discriminator"] = {"cannot tell": CHANCE_LOSS, "tells all": least_discriminator_loss(softness)}
    return levels


def draw_training_curves(
    metrics: pd.DataFrame, keeps_last: Collection[str] = (), levels: Levels | None = None
) -> Figure:
    """Draws one panel per stage and quantity, because losses and validation scores differ in scale.

    A ring marks the kept epoch of each validation score, and the label of the panel's axis says why it was kept. A
    dashed line marks the stage's kept epoch in its other panels.

    Args:
      metrics: one row per epoch, with `stage`, `epoch`, `loss` and, at validated epochs, `validation_score`. For an
        ISTN it also has the losses of discriminator and generator, and the validation losses of the retrained models,
        which get lines of panels of their own.
      keeps_last: stages that keep their last epoch instead of their best one.
      levels: horizontal lines of an ISTN, by `istn_levels`.
    """
    stages = {stage: metrics[metrics["stage"] == stage] for stage in dict.fromkeys(metrics["stage"])}
    lines = [(stage, _PANELS) for stage in stages]
    for panels in (_GAME, FOLLOWERS):
        lines += [(stage, panels) for stage, rows in stages.items() if _has_values(rows, panels)]
    figure = Figure(figsize=(WIDTH_INCHES, 1.9 * max(len(lines), 1)), layout="constrained")
    grid = figure.subplots(max(len(lines), 1), 2, squeeze=False)
    for line, (stage, panels) in zip(grid, lines, strict=False):
        rows, kept = stages[stage], kept_epochs(stages[stage], stage in keeps_last)
        own = levels if levels and _has_values(rows, _GAME) else {}
        for axes, (key, title), colour in zip(line, panels.items(), SITE_COLOURS, strict=False):
            known = rows[rows[key].notna()] if key in rows else rows[:0]
            axes.plot(known["epoch"], known[key] if len(known) else [], "-" if len(known) > 40 else ".-", color=colour)
            axes.set(title=f"{stage.replace('_', ' ')}: {title}", xlabel="epoch")
            axes.spines[["top", "right"]].set_visible(False)
            _draw_levels(axes, own.get(key, {}))
            _mark(axes, known, key, kept)
    for axes in np.ravel(grid):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _draw_levels(axes: Axes, levels: Mapping[str, float]) -> None:
    for name, value in levels.items():
        axes.axhline(value, color="grey", linestyle=":", linewidth=1)
        axes.text(0.01, value, name, transform=axes.get_yaxis_transform(), fontsize=8, color="dimgrey", va="bottom")


def _mark(axes: Axes, known: pd.DataFrame, key: str, kept: dict[str, Kept]) -> None:
    """Marks the kept epoch by a ring and the reason, or by a line in the panel of what did not choose it."""
    if key not in kept:
        if "validation_score" in kept and len(known):
            axes.axvline(kept["validation_score"].epoch, color="black", linestyle="--", linewidth=0.8)
        return
    epoch, why = kept[key]
    axes.plot(epoch, known.loc[known["epoch"] == epoch, key], "o", color="black", fillstyle="none", markersize=9)
    axes.set_xlabel(f"epoch (kept: {epoch}, {why})")


def kept_epochs(rows: pd.DataFrame, last: bool) -> dict[str, Kept]:
    """Returns the kept epoch for each validation score of one stage, without scores that were never validated.

    The stage itself keeps the epoch of its lowest score, or its last validated epoch if `last` is set. The epochs of
    the retrained models are read from the training log: they have the lowest loss on images made by the kept ISTN.
    """
    if not _has_values(rows, ["validation_score"]):
        return {}
    known = rows[rows["validation_score"].notna()]
    lowest = _epoch_of_lowest(known, "validation_score")
    own = Kept(int(known["epoch"].iloc[-1]), "the last") if last else Kept(lowest, "the lowest score")
    followers = {key: _KEPT.format(key) for key in FOLLOWERS if _has_values(known, [_KEPT.format(key)])}
    why = f"the lowest loss since epoch {own.epoch}"
    return {"validation_score": own} | {key: Kept(int(known[one].iloc[-1]), why) for key, one in followers.items()}


def _epoch_of_lowest(rows: pd.DataFrame, key: str) -> int:
    """Returns the first epoch with the lowest value, as training does."""
    return int(rows["epoch"].iloc[int(np.nanargmin(rows[key].to_numpy()))])


def _has_values(rows: pd.DataFrame, keys: Collection[str]) -> bool:
    return all(key in rows and rows[key].notna().any() for key in keys)
