"""What the ISTN does to images: before, after appearance, after shape, and how (paper B, Figs. 3 and 4)."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GRID_LINES = 14  # of the warped grid, across the image


def draw_transformations(examples: dict[str, np.ndarray]) -> Figure:
    """One column a subject, one row a step.

    Args:
      examples: `source`, `appearance` (after the ITN), `image` (after the STN) and `reference` (other people's images
        of the reference site), each (N, *shape) in [-1, 1]; where an STN acted `displacement` (N, *shape, D) in voxels
        and `jacobian` (N, *shape). Of volumes the middle axial slice is drawn, the front of the head up.
    """
    source, appearance, image = (examples[name] for name in ("source", "appearance", "image"))
    rows = [("source S", source, "gray"), ("after ITN", appearance, "gray")]
    if "displacement" in examples:
        rows.append(("after STN: S2T", image, "gray"))
    rows += [("S2T - S", image - source, "RdBu_r")]
    if "displacement" in examples:
        rows += [("deformation", examples["displacement"], "grid"), ("log2 Jacobian", examples["jacobian"], "PuOr")]
    rows.append(("reference T", examples["reference"], "gray"))
    count = min(len(images) for _, images, _ in rows)
    figure = Figure(figsize=(1.5 * count + 0.8, 1.55 * len(rows)), layout="constrained")
    for line, (label, images, kind) in zip(figure.subplots(len(rows), count, squeeze=False), rows, strict=True):
        for axes, volume in zip(line, images, strict=False):
            _draw(axes, volume, kind)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(label, fontsize=9)
    return figure


def _draw(axes: Axes, volume: np.ndarray, kind: str) -> None:
    if kind == "grid":
        _draw_grid(axes, volume)
        return
    values = np.log2(np.maximum(volume, 1e-3)) if kind == "PuOr" else volume
    plane = values if values.ndim == 2 else np.rot90(values[:, :, values.shape[2] // 2])
    axes.imshow(plane, cmap=kind, vmin=-1, vmax=1, interpolation="nearest")


def _draw_grid(axes: Axes, displacement: np.ndarray) -> None:
    """Lines of constant x and y, drawn where the STN reads them: a bend shows where tissue comes from."""
    plane = displacement if displacement.ndim == 3 else displacement[:, :, displacement.shape[2] // 2, :2]
    first, second = np.meshgrid(*(np.arange(size) for size in plane.shape[:2]), indexing="ij")
    read = np.stack([first, second], axis=-1) + plane
    step = max(1, plane.shape[0] // GRID_LINES)
    # A digit's axes are (row, column) from the top; a brain's first axis runs to the right, its second to the front.
    across, up = (1, 0) if displacement.ndim == 3 else (0, 1)
    for line in [*read[::step], *read.swapaxes(0, 1)[::step]]:
        axes.plot(line[:, across], line[:, up], color="#0072B2", linewidth=0.6)
    axes.set_aspect("equal")
    if displacement.ndim == 3:
        axes.invert_yaxis()
