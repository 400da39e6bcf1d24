"""Figures of the statistical maps in maps/*.nii.gz, drawn on the template (Lokhande et al. 2022, Fig. 5)."""

import functools
from typing import Any, Literal

import nibabel
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from nilearn.datasets import load_mni152_template
from nilearn.plotting import plot_anat

from eqpool.report.lettering import Figure, drawn_name
from eqpool.storage.files import file_name_part, read_json
from eqpool.storage.run_folder import RunFolder

FORM_TITLES = {
    "before": "before: input",
    "before_decoded": "before: its decode",
    "after": "after: input + change",
    "after_decoded": "after: pooled decode",
}
Correction = Literal["bonferroni", "fdr"]
CORRECTION_TITLES: dict[Correction, str] = {"bonferroni": "Bonferroni", "fdr": "FDR"}
_LABEL_WIDTH, _BAR_LEFT, _TOP = 0.14, 0.9, 0.95  # fractions of the figure
_SMALLEST = 1e-6  # nilearn's threshold, so that voxels at 0 stay clear
CUTS_MM = (-24, -16, -8, 4, 16, 36)  # slices through hippocampi, temporal horns, ventricles and cortex


def read_maps(folder: RunFolder) -> dict[str, Any] | None:
    """Returns maps/maps.json of a work directory, or None if there are no maps."""
    path = folder.maps_file
    return read_json(path) if path.is_file() else None


def draw_t_maps(folder: RunFolder, facts: dict[str, Any], correction: Correction) -> Figure:
    """Draws the t-values of the target at the voxels that pass a correction.

    Each row shows one form of the volumes, and each column one axial slice. The colour scale extends to the largest |t|
    of the uncorrected maps, so the figures of both corrections share one scale.
    """
    contrast, part = facts["contrast"], file_name_part(facts["contrast"])
    forms = [form for form in FORM_TITLES if form in facts["forms"]]
    passed = {form: _load(folder, f"{form}_t_{part}_{correction}") for form in forms}
    most = max(float(np.abs(_load(folder, f"{form}_t_{part}").get_fdata()).max()) for form in forms)
    labels = {form: f"{FORM_TITLES[form]}\n{facts['forms'][form][f'voxels_{correction}']} voxels" for form in forms}
    title = f"t, {drawn_name(contrast)}, p < {facts['threshold']:g} ({CORRECTION_TITLES[correction]})"
    return _draw(passed, labels, most, "RdBu_r", title, signed=True)


def draw_share_maps(folder: RunFolder, facts: dict[str, Any], name: str, title: str) -> Figure:
    """Draws the partial R^2 of the site, target or covariate `name`, adjusted for the other regressors.

    The panels before and after pooling share one colour scale, labelled with `title`.
    """
    forms = {form: facts["forms"][form] for form in FORM_TITLES if form in facts["forms"]}
    images = {form: _load(folder, f"{form}_r2_{file_name_part(name)}") for form in forms}
    labels = {form: f"{FORM_TITLES[form]}\n{_mean_share(own, name)}" for form, own in forms.items()}
    most = max(float(image.get_fdata().max()) for image in images.values())
    return _draw(images, labels, most, "inferno", title, signed=False)


def _mean_share(facts: dict[str, Any], name: str) -> str:
    """Returns a form's mean partial R^2 and the mean expected by chance, which is large when there are few rows.

    Maps written by older versions do not record the chance level, so only the mean is returned for them.
    """
    mean, by_chance = f"mean {facts[f'r2_{name}_mean']:.3f}", facts.get(f"r2_{name}_by_chance")
    return mean if by_chance is None else f"{mean}\n(by chance {by_chance:.3f})"


def _load(folder: RunFolder, name: str) -> nibabel.Nifti1Image:
    return nibabel.load(folder.maps / f"{name}.nii.gz")  # type: ignore[return-value]


@functools.cache
def _template() -> nibabel.Nifti1Image:
    return load_mni152_template(resolution=2)


def _draw(
    overlays: dict[str, nibabel.Nifti1Image],
    labels: dict[str, str],
    most: float,
    colours: str,
    title: str,
    signed: bool,
) -> Figure:
    """Draws one line of axial slices per form with nilearn, and one shared colour bar. Voxels at 0 stay clear."""
    scale = Normalize(-most if signed else 0, most)
    figure = Figure(figsize=(11, 1.75 * len(overlays) + 0.5))
    FigureCanvasAgg(figure)  # nilearn needs a canvas to measure its labels before the figure is saved
    height = _TOP / len(overlays)
    for line, (form, overlay) in enumerate(overlays.items()):
        bottom = _TOP - (line + 1) * height
        slices = plot_anat(
            _template(),
            display_mode="z",
            cut_coords=CUTS_MM,
            figure=figure,
            axes=(_LABEL_WIDTH, bottom, _BAR_LEFT - _LABEL_WIDTH, height),
            annotate=False,
            black_bg=False,
            threshold=_SMALLEST,
            colorbar=False,
        )
        if np.any(overlay.dataobj):  # skip the overlay if no voxel passes
            slices.add_overlay(overlay, threshold=_SMALLEST, cmap=colours, vmin=scale.vmin, vmax=scale.vmax)
        if line == 0:
            slices.annotate(left_right=True, positions=False, size=10)
            for cut_mm, cut in slices.axes.items():  # above the slices, where the position covers no brain
                cut.ax.set_title(f"z = {cut_mm:g} mm", fontsize=9)
        figure.text(0.01, bottom + height / 2, labels[form], va="center", fontsize=9)
    bar = figure.add_axes((_BAR_LEFT + 0.01, 0.15, 0.013, 0.7))
    figure.colorbar(ScalarMappable(scale, colours), cax=bar, label=title)
    return figure
