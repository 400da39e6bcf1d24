"""How training went: loss and validation score of every stage."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from eqpool.report.lettering import Figure
from eqpool.report.style import SITE_COLOURS

# What an ISTN's retrained models are kept by, each at an epoch of its own (`eqpool.engine.state.Stage`, followers).
FOLLOWERS = {
    "validation_scratch": "loss on S2T, from scratch",
    "validation_finetuned": "loss on S2T, fine-tuned",
}
_KEPT = "{}_epoch"  # the column that says which one a follower is kept at by then
PANELS = {"loss": "training loss", "validation_score": "validation score"}


def draw_training_curves(metrics: pd.DataFrame, keeps_last: Collection[str] = ()) -> Figure:
    """One panel a stage and quantity: loss terms differ in scale, and a stage may be validated at few epochs.

    Args:
      metrics: one row an epoch, with `stage`, `epoch`, `loss` and, where it was validated, `validation_score`; of an
        ISTN the validation losses of its retrained models too, which take a line of their own.
      keeps_last: stages of which the last epoch was kept and not the best; a ring marks the epoch that was.
    """
    stages = {stage: metrics[metrics["stage"] == stage] for stage in dict.fromkeys(metrics["stage"])}
    lines = [(stage, PANELS) for stage in stages]
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
    """By what a network is kept -> its epoch, of one stage's rows; without what was never validated.

    The stage itself is kept at its lowest score, or at the `last` one; training says which epoch of a retrained model
    has the lowest loss on what the kept ISTN makes.
    """
    if not _has_values(rows, ["validation_score"]):
        return {}
    known = rows[rows["validation_score"].notna()]
    own = int(known["epoch"].iloc[-1]) if last else _epoch_of_lowest(known, "validation_score")
    followers = {key: _KEPT.format(key) for key in FOLLOWERS if _has_values(known, [_KEPT.format(key)])}
    return {"validation_score": own} | {key: int(known[column].iloc[-1]) for key, column in followers.items()}


def _epoch_of_lowest(rows: pd.DataFrame, key: str) -> int:
    """The first of them, as training keeps it."""
    return int(rows["epoch"].iloc[int(np.nanargmin(rows[key].to_numpy()))])


def _has_values(rows: pd.DataFrame, keys: Collection[str]) -> bool:
    return all(key in rows and rows[key].notna().any() for key in keys)
