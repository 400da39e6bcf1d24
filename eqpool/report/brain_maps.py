"""Statistical maps on the template (paper A, Fig. 5), from maps/*.nii.gz."""

import pathlib
from typing import Any

import nibabel
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from nilearn.datasets import load_mni152_template
from nilearn.image import resample_to_img

from eqpool.files import read_json

FORM_TITLES = {
    "before": "before: input",
    "before_decoded": "before: its decode",
    "after": "after: input + change",
    "after_decoded": "after: pooled decode",
}
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
    layout = ConstrainedLayoutEngine(w_pad=0.1)  # labels of two lines are wider than it reserves by itself
    figure = Figure(figsize=(1.55 * len(CUTS_MM) + 2.2, 1.75 * len(overlays) + 0.5), layout=layout)
    grid = figure.subplots(len(overlays), len(CUTS_MM), squeeze=False)
    template = resample_to_img(
        load_mni152_template(resolution=2), next(iter(overlays.values())), copy_header=True, force_resample=True
    )
    for line, (form, overlay) in zip(grid, overlays.items(), strict=True):
        for axes, cut in zip(line, CUTS_MM, strict=True):
            picture = _slice(axes, template, overlay, cut, most, colours, signed)
        line[0].set_ylabel(labels[form], fontsize=9)
    for axes, cut in zip(grid[0], CUTS_MM, strict=True):
        axes.set_title(f"z = {cut} mm", fontsize=9)
    figure.colorbar(picture, ax=grid, label=title, shrink=0.7)
    return figure


def _slice(
    axes: Axes,
    template: nibabel.Nifti1Image,
    overlay: nibabel.Nifti1Image,
    cut: float,
    most: float,
    colours: str,
    signed: bool,
):
    """One axial slice, the front of the head up and its left on the left; voxels that are 0 stay clear."""
    place = round(float((np.linalg.inv(overlay.affine) @ [0, 0, cut, 1])[2]))
    place = min(max(place, 0), overlay.shape[2] - 1)
    ground, values = (np.asarray(image.dataobj, np.float32)[:, :, place].T for image in (template, overlay))
    axes.imshow(ground, cmap="gray", origin="lower", interpolation="bilinear", vmin=0, vmax=1.05 * ground.max() or 1)
    clear = np.ma.masked_equal(values, 0)
    axes.set(xticks=[], yticks=[])
    return axes.imshow(
        clear, cmap=colours, origin="lower", interpolation="nearest", vmin=-most if signed else 0, vmax=most
    )
