"""Writes harmonised volumes as a BIDS derivative, with sidecars, on the input's voxels. Never overwrites an input."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np

from eqpool.data.volumes.image_files import read_image, to_ras
from eqpool.data.volumes.inputs import Grid
from eqpool.data.volumes.read import Tissue, measure_tissue
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


def write_description(folder: pathlib.Path, version: str, *, harmonised: str, origin: str = "") -> None:
    """Writes dataset_description.json of the derivative folder, with `origin` as the end of its name."""
    how = {
        "change": "the input plus the change that pooling makes in its decode, D(Psi(Phi(l))) - D(l)",
        "decoded": "the decode D(Psi(Phi(l))) of the pooled latent",
        "istn_change": "the input plus what an image transformer network changes in its looks",
        "istn_decoded": "the input after an image and a spatial transformer network",
    }[harmonised]
    description = {
        "Name": f"Volumes harmonised by eqpool{origin}",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "eqpool", "Version": version, "Description": f"Each volume is {how}."}],
    }
    write_json(folder / "dataset_description.json", description)


def to_z_scores(volume: np.ndarray, squash: bool) -> np.ndarray:
    """Converts a network's output to z-scores: inverts tanh if inputs were squashed, else returns `volume`."""
    return np.arctanh(np.clip(volume, -_INSIDE_SQUASH, _INSIDE_SQUASH)) if squash else volume


def write_change(
    source: pathlib.Path,
    change: np.ndarray,
    grid: Grid,
    path: pathlib.Path,
    alignment: np.ndarray | None = None,
    *,
    root: pathlib.Path | None = None,
    keep_sign: bool = False,
) -> Clipped:
    """Writes the input plus a change, in the input's units on the input's voxels.

    Only the change is resampled, which preserves the input's detail. It is smoothed first along axes with coarser
    voxels than the grid, and then interpolated linearly. Voxels that are 0 in the input, such as stripped ones, stay 0,
    and NaN around the head becomes 0. A change of 0 returns the input's values.

    Args:
      source: input image.
      change: `grid.shape`, z-scores of the input's tissue. Values outside the mask are ignored.
      grid: grid of the change.
      path: output file.
      alignment: (4, 4) map from the source's millimetres to the grid's; None if they are the same.
      root: folder of the source's data set. The sidecar names the source relative to it, or by its file name if it lies
        outside or no root is given.
      keep_sign: sets negative results to 0 if the input has no negative voxel.

    Returns:
      The number of voxels set to 0, which the sidecar also reports.

    Raises:
      BadVolumeError: the source can no longer be read.
    """
    image, tissue = _read_with_tissue(source, grid, alignment)
    values = np.asarray(image.dataobj, dtype=np.float32)
    added = _on_voxels_of(image, np.where(grid.mask, tissue.deviation * change, 0), grid, alignment)
    facts = _sources(source, root) | _intensities(tissue)
    return _save_clipped(np.where(values != 0, values + added, 0), image, facts, path, keep_sign)


def write_decoded(
    source: pathlib.Path,
    decoded: np.ndarray,
    grid: Grid,
    path: pathlib.Path,
    alignment: np.ndarray | None = None,
    *,
    root: pathlib.Path | None = None,
    keep_sign: bool = False,
) -> Clipped:
    """Writes a decode in the input's units on the input's voxels, 0 outside the brain mask.

    The arguments and the result are those of `write_change`.
    """
    image, tissue = _read_with_tissue(source, grid, alignment)
    volume = np.where(grid.mask, tissue.mean + tissue.deviation * decoded, 0)
    facts = _sources(source, root) | _intensities(tissue)
    return _save_clipped(_on_voxels_of(image, volume, grid, alignment), image, facts, path, keep_sign)


def write_jacobian(
    source: pathlib.Path,
    jacobian: np.ndarray,
    grid: Grid,
    path: pathlib.Path,
    alignment: np.ndarray | None = None,
    *,
    root: pathlib.Path | None = None,
) -> None:
    """Writes a deformation's Jacobian determinant on the input's voxels, 1 outside the grid.

    `path` is the path of the harmonised volume. The map is written beside it under `JACOBIAN_SUFFIX`. The other
    arguments are those of `write_change`.
    """
    image = read_image(source)
    values = 1 + _on_voxels_of(image, jacobian - 1, grid, alignment)
    quantity = "Jacobian determinant of the deformation; 2 where the source was shrunk to half its volume"
    facts = _sources(source, root) | {"Quantity": quantity}
    _save(values, image, facts, path.with_name(path.name.replace(SUFFIX, JACOBIAN_SUFFIX)))


def _sources(source: pathlib.Path, root: pathlib.Path | None) -> dict[str, Any]:
    """Returns the sidecar's source of a volume. Paths stay as written, and links are not followed."""
    relative = source.name if root is None else pathlib.Path(os.path.relpath(source, root)).as_posix()
    return {"Sources": [source.name if relative.startswith("../") else relative]}


def _read_with_tissue(source: pathlib.Path, grid: Grid, alignment: np.ndarray | None):
    image = read_image(source)
    in_ras = to_ras(image, source)
    on_grid = lay_on_grid(in_ras, grid, alignment)
    return image, measure_tissue(on_grid, grid, source, image=in_ras, aligned=alignment is not None)


def _save_clipped(
    values: np.ndarray, source: nibabel.Nifti1Image, facts: dict[str, Any], path: pathlib.Path, keep_sign: bool
) -> Clipped:
    """Saves values; those below 0 become 0 if `keep_sign` is set and the source has no negative voxel."""
    keeps = keep_sign and not np.asarray(source.dataobj).min() < 0
    clipped = Clipped(int(np.count_nonzero(values < 0)) if keeps else 0, int(np.count_nonzero(values)))
    _save(np.maximum(values, 0) if keeps else values, source, facts | clipped.facts(), path)
    return clipped


def _on_voxels_of(
    image: nibabel.Nifti1Image, volume: np.ndarray, grid: Grid, alignment: np.ndarray | None
) -> np.ndarray:
    """Resamples a volume of the grid to the image's voxels, with 0 outside the grid."""
    affine = image.affine if alignment is None else alignment @ image.affine
    if lies_on(affine, image.shape, grid):
        return volume.astype(np.float32)
    moving = nibabel.Nifti1Image(volume.astype(np.float32), grid.affine)
    return resample(moving, affine, image.shape)


def _intensities(tissue: Tissue) -> dict[str, Any]:
    return {
        "IntensityUnits": "those of the source; (value - TissueMean) / TissueDeviation compares across scanners",
        "TissueMean": tissue.mean,
        "TissueDeviation": tissue.deviation,
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
