"""Training curves: the loss and the validation score of every stage."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from eqpool.report.lettering import Figure
from eqpool.report.style import SITE_COLOURS

# Validation losses of an ISTN's retrained models. Each model has its own kept epoch (`eqpool.engine.state.Stage`).
FOLLOWERS = {
    "validation_scratch": "loss on S2T, from scratch",
    "validation_finetuned": "loss on S2T, fine-tuned",
}
_KEPT = "{}_epoch"  # column with the epoch at which a follower is kept so far
_PANELS = {"loss": "training loss", "validation_score": "validation score"}


def draw_training_curves(metrics: pd.DataFrame, keeps_last: Collection[str] = ()) -> Figure:
    """Draws one panel per stage and quantity, because losses and validation scores differ in scale.

    A ring marks the kept epoch of each validation score.

    Args:
      metrics: one row per epoch, with `stage`, `epoch`, `loss` and, at validated epochs, `validation_score`. For an
        ISTN it also has the validation losses of the retrained models, which get a line of panels of their own.
      keeps_last: stages that keep their last epoch instead of their best one.
    """
    stages = {stage: metrics[metrics["stage"] == stage] for stage in dict.fromkeys(metrics["stage"])}
    lines = [(stage, _PANELS) for stage in stages]
    lines += [(stage, FOLLOWERS) for stage, rows in stages.items() if _has_values(rows, FOLLOWERS)]
    figure = Figure(figsize=(7.6, 2.5 * max(len(lines), 1)), layout="constrained")
    grid = figure.subplots(max(len(lines), 1), 2, squeeze=False)
    for line, (stage, panels) in zip(grid, lines, strict=False):
        rows, kept = stages[stage], kept_epochs(stages[stage], stage in keeps_last)
        for axes, (key, title), colour in zip(line, panels.items(), SITE_COLOURS, strict=False):
            known = rows[rows[key].notna()] if key in rows else rows[:0]
            axes.plot(known["epoch"], known[key] if len(known) else [], "-" if len(known) > 40 else ".-", color=colour)
            axes.set(title=f"{stage.replace('_', ' ')}: {title}", xlabel="epoch")
            axes.spines[["top", "right"]].set_visible(False)
            if key in kept:
                value = known.loc[known["epoch"] == kept[key], key]
                axes.plot(kept[key], value, "o", color="black", fillstyle="none", markersize=9)
    for axes in np.ravel(grid):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def kept_epochs(rows: pd.DataFrame, last: bool) -> dict[str, int]:
    """Returns the kept epoch for each validation score of one stage, without scores that were never validated.

    The stage itself keeps the epoch of its lowest score, or its last validated epoch if `last` is set. The epochs of
    the retrained models are read from the training log: they have the lowest loss on images made by the kept ISTN.
    """
    if not _has_values(rows, ["validation_score"]):
        return {}
    known = rows[rows["validation_score"].notna()]
    own = int(known["epoch"].iloc[-1]) if last else _epoch_of_lowest(known, "validation_score")
    followers = {key: _KEPT.format(key) for key in FOLLOWERS if _has_values(known, [_KEPT.format(key)])}
    return {"validation_score": own} | {key: int(known[column].iloc[-1]) for key, column in followers.items()}


def _epoch_of_lowest(rows: pd.DataFrame, key: str) -> int:
    """Returns the first epoch with the lowest value, as training does."""
    return int(rows["epoch"].iloc[int(np.nanargmin(rows[key].to_numpy()))])


def _has_values(rows: pd.DataFrame, keys: Collection[str]) -> bool:
    return all(key in rows and rows[key].notna().any() for key in keys)
