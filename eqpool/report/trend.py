"""Figure of the covariate as predicted from the embeddings before and after pooling."""

import numpy as np
from sklearn.metrics import r2_score

from eqpool.evaluate.readout import read_covariate
from eqpool.report.lettering import Figure, drawn_name
from eqpool.report.style import INK, WIDTH_INCHES, legend_below, scatter_sites


def draw_covariate_trend(
    vectors: dict[str, np.ndarray],
    values: np.ndarray,
    sites: np.ndarray,
    names: list[str],
    train: np.ndarray,
    test: np.ndarray,
    covariate: str,
) -> Figure:
    """Draws the covariate that a ridge regression predicts from each embedding against its true value.

    The regression is fitted on the training rows and applied to the test rows.

    Args:
      vectors: (N, n) embeddings by title.
      values: (N,) covariate.
      sites: (N,) site name of each row.
      names: names of all sites, in the order of their styles.
      train, test: row indices.
      covariate: name of the covariate.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 3.2), layout="constrained")
    panels = figure.subplots(1, len(vectors), sharex=True, sharey=True, squeeze=False)[0]
    limits = values[test].min(), values[test].max()
    for axes, (title, embedding) in zip(panels, vectors.items(), strict=True):
        read = read_covariate(embedding[train], values[train], embedding[test])
        axes.plot(limits, limits, "--", color=INK, linewidth=1)
        scatter_sites(axes, np.stack([values[test], read], axis=1), sites[test], names)
        axes.set(title=f"{title}\nR² {r2_score(values[test], read):.2f}", xlabel=f"true {drawn_name(covariate)}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"predicted {drawn_name(covariate)}")
    legend_below(figure, panels[0], names)
    return figure
