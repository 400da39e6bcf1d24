"""Writes harmonised volumes as a BIDS derivative, with sidecars, on the input's voxels. Never overwrites an input."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np

from eqpool.data.volumes.image_files import read_image
from eqpool.data.volumes.inputs import Grid, ImageFacts
from eqpool.data.volumes.intensity_scale import CommonScale
from eqpool.data.volumes.resampling import lay_on_grid, lies_on, resample
from eqpool.errors import InputError
from eqpool.storage.files import write_atomically, write_json, write_text

SUFFIX, JACOBIAN_SUFFIX = "desc-harmonized_T1w.nii.gz", "desc-harmonized_jacobian.nii.gz"
_INSIDE_SQUASH = 0.9999  # largest tanh value to invert, as the inverse at 1 is infinite


class Clipped(NamedTuple):
    """The voxels of a volume that were set to 0 to keep its sign.

    Attributes:
      voxels: number of negative voxels that were set to 0.
      written: number of voxels that were not 0 before.
    """

    voxels: int
    written: int

    def facts(self) -> dict[str, Any]:
        """Returns the entries for the volume's sidecar."""
        return {"VoxelsSetToZero": self.voxels, "ShareSetToZero": self.voxels / max(self.written, 1)}


def say_clipped(clipped: Sequence[Clipped], say: Callable[[str], None]) -> None:
    """Reports through `say` how many voxels of all volumes were set to 0, if any were."""
    voxels, written = sum(one.voxels for one in clipped), sum(one.written for one in clipped)
    if voxels:
        count = sum(one.voxels > 0 for one in clipped)
        say(
            f"{voxels} voxels ({voxels / written:.2%}) of {count} harmonised volumes would be negative where their "
            "inputs have no negative voxel, and were set to 0; config.output.keep_sign = off keeps them"
        )


def derivative_paths(folder: pathlib.Path, names: Sequence[str]) -> list[pathlib.Path]:
    """Returns each row's path, `<folder>/sub-X/[ses-Y/]anat/sub-X[_ses-Y]..._desc-harmonized_T1w.nii.gz`.

    `names` come from `eqpool.data.volumes.bids_names.scan_names`.
    """
    return [folder / f"{name}_{SUFFIX}" for name in names]


def check_not_inputs(paths: Sequence[pathlib.Path], inputs: Sequence[pathlib.Path]) -> None:
    """Raises `InputError` if an output path is also an input."""
    given = {path.resolve() for path in inputs}
    for path in paths:
        if path.resolve() in given:
            raise InputError(f"{path}: is an input, expected another output folder; inputs are never written over")


def write_description(
    folder: pathlib.Path, version: str, *, harmonised: str, origin: str = "", scale: CommonScale | None = None
) -> None:
    """Writes dataset_description.json of the derivative folder, with `origin` as the end of its name."""
    how = {
        "change": "the input plus the change that pooling makes in its decode, D(Psi(Phi(l))) - D(l)",
        "decoded": "the decode D(Psi(Phi(l))) of the pooled latent",
        "calibrated_change": "the input plus the changes of the site calibration and of the decode by pooling, "
        "D(Psi(Phi(l))) - D(l)",
        "calibrated_decoded": "the decode D(Psi(Phi(l))) of the pooled latent of the calibrated input",
        "combat_change": "the input plus what ComBat changes in its intensities",
        "combat_decoded": "what ComBat makes of the input on the grid of the run",
        "istn_change": "the input plus what an image transformer network changes in its looks",
        "istn_decoded": "the input after an image and a spatial transformer network",
    }[harmonised]
    units = "in the units of its source" if scale is None else f"on a common intensity scale ({scale.origin})"
    description = {
        "Name": f"Volumes harmonised by eqpool{origin}",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "eqpool", "Version": version, "Description": f"Each volume is {how}, {units}."}],
    }
    write_json(folder / "dataset_description.json", description)


def to_z_scores(volume: np.ndarray, squash: bool) -> np.ndarray:
    """Converts a network's output to z-scores: inverts tanh if inputs were squashed, else returns `volume`."""
    return np.arctanh(np.clip(volume, -_INSIDE_SQUASH, _INSIDE_SQUASH)) if squash else volume


class Source(NamedTuple):
    """An input image, read to write a volume that was made from it.

    Attributes:
      image: the image, with its axes untouched.
      path: its file.
      facts: what its preparation found out about it.
      root: folder of its data set. Sidecars name the source relative to it, or by its file name if it lies outside or
        no root is given.
    """

    image: nibabel.Nifti1Image
    path: pathlib.Path
    facts: ImageFacts
    root: pathlib.Path | None = None


def read_source(path: pathlib.Path, facts: ImageFacts, root: pathlib.Path | None = None) -> Source:
    """Reads an input image.

    Raises:
      BadVolumeError: the source can no longer be read.
    """
    return Source(read_image(path), path, facts, root)


def write_change(
    source: Source,
    change: np.ndarray,
    grid: Grid,
    path: pathlib.Path,
    *,
    keep_sign: bool = False,
    scale: CommonScale | None = None,
) -> Clipped:
    """Writes the input plus a change, in the input's units or on a common scale, on the input's voxels.

    Only the change is resampled, which preserves the input's detail. It is smoothed first along axes with coarser
    voxels than the grid, and then interpolated linearly. Voxels that are 0 in the input, such as stripped ones, stay 0,
    and NaN around the head becomes 0. A change of 0 returns the input's values. A common scale then takes one gain and
    one offset for all voxels, after which the tissue has its mean and deviation (`eqpool.data.volumes.read.Tissue`).

    Args:
      source: input image.
      change: `grid.shape`, z-scores of the input's tissue. Values outside the mask are ignored.
      grid: grid of the change.
      path: output file.
      keep_sign: sets negative results to 0 if the input has no negative voxel, unless the scale is one of z-scores.
      scale: scale of the written values; None for the input's own units.

    Returns:
      The number of voxels set to 0, which the sidecar also reports.
    """
    values = np.asarray(source.image.dataobj, dtype=np.float32)
    added = _on_voxels_of(source, np.where(grid.mask, source.facts.tissue_deviation * change, 0), grid)
    made = np.where(values != 0, values + added, 0)
    tissue = None
    if scale is not None:
        tissue = _tissue_of(_on_grid(made, source, grid), grid, source.facts)
        made = np.where(made != 0, scale.apply(made, *tissue), 0)
    return _save_clipped(made, source, path, keep_sign, scale, tissue)


def write_decoded(
    source: Source,
    decoded: np.ndarray,
    grid: Grid,
    path: pathlib.Path,
    *,
    keep_sign: bool = False,
    scale: CommonScale | None = None,
) -> Clipped:
    """Writes a decode in the input's units or on a common scale, on the input's voxels, 0 outside the brain mask.

    The arguments and the result are those of `write_change`.
    """
    made = np.where(grid.mask, source.facts.tissue_mean + source.facts.tissue_deviation * decoded, 0)
    tissue = None
    if scale is not None:  # before the edge of the mask is interpolated
        tissue = _tissue_of(made, grid, source.facts)
        made = np.where(grid.mask, scale.apply(made, *tissue), 0)
    return _save_clipped(_on_voxels_of(source, made, grid), source, path, keep_sign, scale, tissue)


def write_jacobian(source: Source, jacobian: np.ndarray, grid: Grid, path: pathlib.Path) -> None:
    """Writes a deformation's Jacobian determinant on the input's voxels, 1 outside the grid.

    `path` is the path of the harmonised volume. The map is written beside it under `JACOBIAN_SUFFIX`. The other
    arguments are those of `write_change`.
    """
    values = 1 + _on_voxels_of(source, jacobian - 1, grid)
    quantity = "Jacobian determinant of the deformation; 2 where the source was shrunk to half its volume"
    facts = _named(source) | {"Quantity": quantity}
    _save(values, source.image, facts, path.with_name(path.name.replace(SUFFIX, JACOBIAN_SUFFIX)))


def _named(source: Source) -> dict[str, Any]:
    """Returns the sidecar's source of a volume. Paths stay as written, and links are not followed."""
    path, root = source.path, source.root
    relative = path.name if root is None else pathlib.Path(os.path.relpath(path, root)).as_posix()
    return {"Sources": [path.name if relative.startswith("../") else relative]}


def _save_clipped(
    values: np.ndarray,
    source: Source,
    path: pathlib.Path,
    keep_sign: bool,
    scale: CommonScale | None,
    tissue: tuple[float, float] | None,
) -> Clipped:
    """Saves values; those below 0 become 0 if `keep_sign` is set and neither source nor scale has them."""
    keeps = keep_sign and not np.asarray(source.image.dataobj).min() < 0 and (scale is None or scale.is_positive)
    clipped = Clipped(int(np.count_nonzero(values < 0)) if keeps else 0, int(np.count_nonzero(values)))
    facts = _named(source) | _intensities(source.facts, scale, tissue) | clipped.facts()
    _save(np.maximum(values, 0) if keeps else values, source.image, facts, path)
    return clipped


def _on_grid(values: np.ndarray, source: Source, grid: Grid) -> np.ndarray:
    """Returns values of the source's voxels on the grid, as the preparation would read them."""
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(values.astype(np.float32), source.image.affine))
    return lay_on_grid(image, grid, source.facts.alignment)


def _tissue_of(volume: np.ndarray, grid: Grid, facts: ImageFacts) -> tuple[float, float]:
    """Returns the tissue mean and deviation of a volume on the grid, or those of its source if it is constant."""
    tissue = volume[grid.mask & (volume != 0)].astype(np.float64)
    deviation = float(tissue.std()) if tissue.size else 0.0
    return (float(tissue.mean()), deviation) if deviation > 0 else (facts.tissue_mean, facts.tissue_deviation)


def _on_voxels_of(source: Source, volume: np.ndarray, grid: Grid) -> np.ndarray:
    """Resamples a volume of the grid to the source's voxels, with 0 outside the grid."""
    image, alignment = source.image, source.facts.alignment
    affine = image.affine if alignment is None else alignment @ image.affine
    if lies_on(affine, image.shape, grid):
        return volume.astype(np.float32)
    moving = nibabel.Nifti1Image(volume.astype(np.float32), grid.affine)
    return resample(moving, affine, image.shape)


def _intensities(facts: ImageFacts, scale: CommonScale | None, tissue: tuple[float, float] | None) -> dict[str, Any]:
    """Returns the entries for a volume's sidecar. `TissueMean` and `TissueDeviation` z-score it on either scale.

    `tissue` is the tissue mean and deviation that the volume had before it was put on the scale.
    """
    if scale is None or tissue is None:
        return {
            "IntensityScale": "as_scanned",
            "IntensityUnits": "those of the source; (value - TissueMean) / TissueDeviation compares across scanners",
            "TissueMean": facts.tissue_mean,
            "TissueDeviation": facts.tissue_deviation,
        }
    units = (
        "one scale for the volumes of all scanners: TissueMean and TissueDeviation are the mean and standard deviation "
        f"of tissue on it ({scale.origin}); AsScannedTissueMean + AsScannedTissueDeviation * (value - TissueMean) / "
        "TissueDeviation is in the units of the source"
    )
    return {
        "IntensityScale": "common",
        "IntensityUnits": units,
        "TissueMean": scale.mean,
        "TissueDeviation": scale.deviation,
        "AsScannedTissueMean": tissue[0],
        "AsScannedTissueDeviation": tissue[1],
    }


def _save(values: np.ndarray, like: nibabel.Nifti1Image, facts: dict[str, Any], path: pathlib.Path) -> None:
    image = nibabel.Nifti1Image(values.astype(np.float32), like.affine)
    image.set_sform(*like.get_sform(coded=True))
    image.set_qform(*like.get_qform(coded=True))
    image.header.set_xyzt_units("mm")
    write_atomically(path, lambda temporary: nibabel.save(image, temporary))
    sidecar = json.dumps(facts, indent=2)
    write_text(path.with_name(path.name.removesuffix(".nii.gz") + ".json"), sidecar + "\n")


def write_map(path: pathlib.Path, values: np.ndarray, grid: Grid) -> None:
    """Writes (V,) values at the brain mask's voxels, 0 elsewhere, as a float32 NIfTI map in template space."""
    volume = np.zeros(grid.shape, np.float32)
    volume[grid.mask] = values
    image = nibabel.Nifti1Image(volume, grid.affine)
    for set_form in (image.set_sform, image.set_qform):
        set_form(grid.affine, code="mni")
    image.header.set_xyzt_units("mm")
    write_atomically(path, lambda temporary: nibabel.save(image, temporary))


def read_map(path: pathlib.Path) -> np.ndarray:
    """Reads a map by `write_map`, `grid.shape` float32."""
    return np.asarray(nibabel.load(path).dataobj, np.float32)  # type: ignore[attr-defined]
