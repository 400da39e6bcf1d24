"""Statistical maps on the template (paper A, Fig. 5), from maps/*.nii.gz."""

import pathlib
from typing import Any

import nibabel
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from nilearn.datasets import load_mni152_template
from nilearn.plotting import plot_anat

from eqpool.files import read_json

FORM_TITLES = {
    "before": "before: input",
    "before_decoded": "before: its decode",
    "after": "after: input + change",
    "after_decoded": "after: pooled decode",
}
LABEL_WIDTH, BAR_LEFT, TOP = 0.14, 0.9, 0.95  # of the figure
SMALLEST = 1e-6  # nilearn's threshold: 0 itself is not drawn
CUTS_MM = (-24, -16, -8, 4, 16, 36)  # through hippocampi, temporal horns, ventricles and cortex


def read_maps(folder: pathlib.Path) -> dict[str, Any] | None:
    """maps/maps.json of a work directory, or None where there are no maps."""
    path = folder / "maps" / "maps.json"
    return read_json(path) if path.is_file() else None


def draw_t_maps(folder: pathlib.Path, facts: dict[str, Any]) -> Figure:
    """t of the target at voxels that pass FDR, one row a form, one column an axial slice."""
    contrast = facts["contrast"]
    rows = {
        form: (f"{form}_t_{contrast}_fdr", f"{form}_t_{contrast}") for form in FORM_TITLES if form in facts["forms"]
    }
    images = {form: [_load(folder, name) for name in names] for form, names in rows.items()}
    most = max(float(np.abs(whole.get_fdata()).max()) for _, whole in images.values())
    labels = {form: f"{FORM_TITLES[form]}\n{facts['forms'][form]['voxels_fdr']} voxels" for form in rows}
    overlays = {form: passed for form, (passed, _) in images.items()}
    return _draw(overlays, labels, most, "RdBu_r", f"t, {contrast}, p < {facts['threshold']:g} (FDR)", signed=True)


def draw_site_maps(folder: pathlib.Path, facts: dict[str, Any]) -> Figure:
    """Partial R^2 of the site beyond covariates and target: what the scanner leaves in each voxel."""
    images = {form: _load(folder, f"{form}_r2_site") for form in FORM_TITLES if form in facts["forms"]}
    labels = {form: f"{FORM_TITLES[form]}\nmean {facts['forms'][form]['r2_site_mean']:.3f}" for form in images}
    most = max(float(image.get_fdata().max()) for image in images.values())
    return _draw(images, labels, most, "inferno", "partial R$^2$ of the site", signed=False)


def _load(folder: pathlib.Path, name: str) -> nibabel.Nifti1Image:
    return nibabel.load(folder / "maps" / f"{name}.nii.gz")  # type: ignore[return-value]


def _draw(
    overlays: dict[str, nibabel.Nifti1Image],
    labels: dict[str, str],
    most: float,
    colours: str,
    title: str,
    signed: bool,
) -> Figure:
    """One line of axial slices a form, by nilearn, with one colour bar for all; voxels that are 0 stay clear."""
    scale = Normalize(-most if signed else 0, most)
    figure = Figure(figsize=(11, 1.75 * len(overlays) + 0.5))
    FigureCanvasAgg(figure)  # nilearn measures its texts before anything is saved
    template = load_mni152_template(resolution=2)
    height = TOP / len(overlays)
    for line, (form, overlay) in enumerate(overlays.items()):
        bottom = TOP - (line + 1) * height
        slices = plot_anat(
            template,
            display_mode="z",
            cut_coords=CUTS_MM,
            figure=figure,
            axes=(LABEL_WIDTH, bottom, BAR_LEFT - LABEL_WIDTH, height),
            annotate=line == 0,  # left, right and millimetres
            black_bg=False,
            threshold=SMALLEST,
            colorbar=False,
        )
        if np.any(overlay.dataobj):  # where nothing passes there is nothing to lay over
            slices.add_overlay(overlay, threshold=SMALLEST, cmap=colours, vmin=scale.vmin, vmax=scale.vmax)
        figure.text(0.01, bottom + height / 2, labels[form], va="center", fontsize=9)
    bar = figure.add_axes((BAR_LEFT + 0.01, 0.15, 0.013, 0.7))
    figure.colorbar(ScalarMappable(scale, colours), cax=bar, label=title)
    return figure
