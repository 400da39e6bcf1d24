"""How training went: loss and validation score of every stage."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from eqpool.report.style import SITE_COLOURS

PANELS_A_LINE = 2


def draw_training_curves(metrics: pd.DataFrame, keeps_last: Collection[str] = ()) -> Figure:
    """One panel a stage and quantity: loss terms differ in scale, and a stage may be validated at few epochs.

    Args:
      metrics: one row an epoch, with `stage`, `epoch`, `loss` and, where it was validated, `validation_score`.
      keeps_last: stages of which the last epoch was kept and not the best; a ring marks the epoch that was.
    """
    stages = list(dict.fromkeys(metrics["stage"]))
    figure = Figure(figsize=(7.6, 2.5 * max(len(stages), 1)), layout="constrained")
    grid = figure.subplots(max(len(stages), 1), 2, squeeze=False)
    for line, stage in zip(grid, stages, strict=False):
        rows = metrics[metrics["stage"] == stage]
        for axes, key, title, colour in zip(
            line, ("loss", "validation_score"), ("training loss", "validation score"), SITE_COLOURS, strict=False
        ):
            known = rows[rows[key].notna()] if key in rows else rows[:0]
            axes.plot(known["epoch"], known[key] if len(known) else [], "-" if len(known) > 40 else ".-", color=colour)
            axes.set(title=f"{stage.replace('_', ' ')}: {title}", xlabel="epoch")
            axes.spines[["top", "right"]].set_visible(False)
        if len(known):
            kept = known.iloc[-1] if stage in keeps_last else known.loc[known["validation_score"].idxmin()]
            line[1].plot(kept["epoch"], kept["validation_score"], "o", color="black", fillstyle="none", markersize=9)
    for axes in np.ravel(grid):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure
