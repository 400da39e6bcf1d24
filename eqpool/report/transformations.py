"""Figures of the steps of an ISTN: appearance, shape and deformation (Robinson et al. 2020, Figs. 3 and 4)."""

import numpy as np
from matplotlib.axes import Axes

from eqpool.report.lettering import Figure, drawn_name

_MOST_SUBJECTS = 3  # more would be too small for a narrow page; images/examples.npz has all
_GRID_LINES = 14  # lines of the warped grid across the image


def draw_transformations(examples: dict[str, np.ndarray]) -> Figure:
    """Draws one column per subject, of the first three, and one row per step.

    Each row of differences has a scale of its own, given in the row's label. Volumes are drawn as their middle axial
    slice, with the front of the head up.

    Args:
      examples: arrays of `eqpool.methods.istn_steps`. `name` (N,), the subjects' names, `truth` (N, *shape), the same
        subjects as the reference site shows them, and `reference` (M, *shape), images of other subjects from it, are
        optional.
    """
    source, appearance, image = (examples[name] for name in ("source", "appearance", "image"))
    rows = [("source S", source, "gray", 1.0)]
    if not np.array_equal(appearance, source):
        rows += [("after ITN", appearance, "gray", 1.0), _difference("ITN(S) - S", appearance - source)]
    if "displacement" in examples:
        rows += [("after STN: S2T", image, "gray", 1.0), _difference("S2T - ITN(S)", image - appearance)]
        logarithm = np.log2(np.maximum(examples["jacobian"], 1e-3))
        rows += [("deformation", examples["displacement"], "grid", 1.0), ("log2 Jacobian", logarithm, "PuOr", 1.0)]
    if "truth" in examples:
        rows.append(("reference's\nview of S", examples["truth"], "gray", 1.0))
    if "reference" in examples:
        rows.append(("reference T", examples["reference"], "gray", 1.0))
    count = min(_MOST_SUBJECTS, *(len(images) for _, images, _, _ in rows))
    figure = Figure(figsize=(1.3 * count + 0.9, 1.35 * len(rows) + 0.2), layout="constrained")
    panels = figure.subplots(len(rows), count, squeeze=False)
    for line, (label, images, kind, most) in zip(panels, rows, strict=True):
        for axes, volume in zip(line, images, strict=False):
            _draw(axes, volume, kind, most)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(label, fontsize=9)
    for axes, name in zip(panels[0], examples.get("name", ()), strict=False):
        axes.set_title(drawn_name(name, 16), fontsize=8)
    return figure


def _difference(label: str, images: np.ndarray) -> tuple[str, np.ndarray, str, float]:
    most = float(np.quantile(np.abs(images[images != 0]), 0.99)) if images.any() else 1.0
    return f"{label}\n\N{PLUS-MINUS SIGN}{most:.2g}", images, "RdBu_r", most


def _draw(axes: Axes, volume: np.ndarray, kind: str, most: float) -> None:
    if kind == "grid":
        _draw_grid(axes, volume)
        return
    plane = volume if volume.ndim == 2 else np.rot90(volume[:, :, volume.shape[2] // 2])
    axes.imshow(plane, cmap=kind, vmin=-most, vmax=most, interpolation="nearest")


def _draw_grid(axes: Axes, displacement: np.ndarray) -> None:
    """Draws lines of constant x and y at the positions that the STN samples, so bends show the origin of the tissue."""
    plane = displacement if displacement.ndim == 3 else displacement[:, :, displacement.shape[2] // 2, :2]
    first, second = np.meshgrid(*(np.arange(size) for size in plane.shape[:2]), indexing="ij")
    read = np.stack([first, second], axis=-1) + plane
    step = max(1, plane.shape[0] // _GRID_LINES)
    # The axes of a digit are (row, column) from the top. A brain's first axis runs to the right, its second to the
    # front.
    across, up = (1, 0) if displacement.ndim == 3 else (0, 1)
    for line in [*read[::step], *read.swapaxes(0, 1)[::step]]:
        axes.plot(line[:, across], line[:, up], color="#0072B2", linewidth=0.6)
    axes.set_aspect("equal")
    if displacement.ndim == 3:
        axes.invert_yaxis()
