"""Harmonised volumes as a BIDS derivative: named, described, on the input's own voxels, never over an input."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np

from eqpool.data.cohort import Grid
from eqpool.data.volumes.image_files import read_image, to_ras
from eqpool.data.volumes.read import Tissue, measure_tissue
from eqpool.data.volumes.resampling import lay_on_grid, lies_on, resample
from eqpool.errors import InputError
from eqpool.storage.files import write_atomically, write_json, write_text

SUFFIX, JACOBIAN_SUFFIX = "desc-harmonized_T1w.nii.gz", "desc-harmonized_jacobian.nii.gz"
_INSIDE_SQUASH = 0.9999  # of tanh, where its inverse is still finite


class Clipped(NamedTuple):
    """What keeping the sign of a volume sets to 0.

    Attributes:
      voxels: how many were set to 0, which would have been negative.
      written: how many were not 0 before.
    """

    voxels: int
    written: int

    def facts(self) -> dict[str, Any]:
        """Returns what the volume's sidecar says of it."""
        return {"VoxelsSetToZero": self.voxels, "ShareSetToZero": self.voxels / max(self.written, 1)}


def say_clipped(clipped: Sequence[Clipped], say: Callable[[str], None]) -> None:
    """Gives `say` a line on how much was set to 0 in all volumes, if anything was."""
    voxels, written = sum(one.voxels for one in clipped), sum(one.written for one in clipped)
    if voxels:
        count = sum(one.voxels > 0 for one in clipped)
        say(
            f"{voxels} voxels ({voxels / written:.2%}) of {count} harmonised volumes would be negative where their "
            "inputs have no negative voxel, and were set to 0; config.output.keep_sign = off keeps them"
        )


def derivative_paths(folder: pathlib.Path, names: Sequence[str]) -> list[pathlib.Path]:
    """Where each row's volume goes: `<folder>/sub-X/[ses-Y/]anat/sub-X[_ses-Y]..._desc-harmonized_T1w.nii.gz`.

    `names` are those of `eqpool.data.volumes.bids_names.scan_names`.
    """
    return [folder / f"{name}_{SUFFIX}" for name in names]


def check_not_inputs(paths: Sequence[pathlib.Path], inputs: Sequence[pathlib.Path]) -> None:
    """Raises `InputError` where an output would be written over an input."""
    given = {path.resolve() for path in inputs}
    for path in paths:
        if path.resolve() in given:
            raise InputError(f"{path}: is an input, expected another output folder; inputs are never written over")


def write_description(folder: pathlib.Path, version: str, *, harmonised: str, origin: str = "") -> None:
    """dataset_description.json of the derivative folder; `origin` ends its name, such as ": SIMULATED images"."""
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
    """What a network gives to z-scores: `volume` itself, or where inputs were squashed the inverse of tanh."""
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

    The change alone is resampled, so that the input's detail stays whole: linearly, and smoothed first along axes where
    the input is coarser than the grid. What is 0 in the input, stripped off, stays 0, and so does NaN around the head.
    A change of 0 gives back the input's values.

    Args:
      source: the input image.
      change: `grid.shape`, z-scores of the input's tissue; what lies outside the mask is not used.
      grid: of the change.
      path: where to write.
      alignment: (4, 4) from the source's millimetres to the grid's; None where they are the same.
      root: of the source's data set; the sidecar names the source relative to it, by its file's name if it lies outside
        or no root is given.
      keep_sign: sets to 0 what would be negative, in an input without a negative voxel.

    Returns:
      How many voxels were set to 0, which the sidecar says too.

    Raises:
      BadVolumeError: the source cannot be read any more.
    """
    image, tissue = _read_with_tissue(source, grid, alignment)
    values = np.asarray(image.dataobj, dtype=np.float32)
    added = _on_voxels_of(image, np.where(grid.mask, tissue.deviation * change, 0), grid, alignment)
    harmonised, clipped = _clip(np.where(values != 0, values + added, 0), values, keep_sign)
    _save(harmonised, image, _sources(source, root) | _intensities(tissue) | clipped.facts(), path)
    return clipped


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
    """Writes a decode, in the input's units on the input's voxels, 0 outside the brain mask; as `write_change`."""
    image, tissue = _read_with_tissue(source, grid, alignment)
    volume = np.where(grid.mask, tissue.mean + tissue.deviation * decoded, 0)
    there = _on_voxels_of(image, volume, grid, alignment)
    harmonised, clipped = _clip(there, np.asarray(image.dataobj), keep_sign)
    _save(harmonised, image, _sources(source, root) | _intensities(tissue) | clipped.facts(), path)
    return clipped


def write_jacobian(
    source: pathlib.Path,
    jacobian: np.ndarray,
    grid: Grid,
    path: pathlib.Path,
    alignment: np.ndarray | None = None,
    *,
    root: pathlib.Path | None = None,
) -> None:
    """A deformation's Jacobian determinant on the input's voxels, 1 beside the grid; other arguments as `write_change`.

    `path` is that of the harmonised volume; the map stands beside it under `JACOBIAN_SUFFIX`.
    """
    image = read_image(source)
    values = 1 + _on_voxels_of(image, jacobian - 1, grid, alignment)
    quantity = "Jacobian determinant of the deformation; 2 where the source was shrunk to half its volume"
    facts = _sources(source, root) | {"Quantity": quantity}
    _save(values, image, facts, path.with_name(path.name.replace(SUFFIX, JACOBIAN_SUFFIX)))


def _sources(source: pathlib.Path, root: pathlib.Path | None) -> dict[str, Any]:
    """What the sidecar says of where a volume comes from: paths as they are written, no links followed."""
    relative = source.name if root is None else pathlib.Path(os.path.relpath(source, root)).as_posix()
    return {"Sources": [source.name if relative.startswith("../") else relative]}


def _read_with_tissue(source: pathlib.Path, grid: Grid, alignment: np.ndarray | None):
    image = read_image(source)
    in_ras = to_ras(image, source)
    on_grid = lay_on_grid(in_ras, grid, alignment)
    return image, measure_tissue(on_grid, grid, source, image=in_ras, aligned=alignment is not None)


def _clip(values: np.ndarray, source: np.ndarray, keep_sign: bool) -> tuple[np.ndarray, Clipped]:
    """The values, those below 0 set to 0 where no voxel of the source is negative and `keep_sign` is asked for."""
    written = int(np.count_nonzero(values))
    if not keep_sign or source.min() < 0:
        return values, Clipped(0, written)
    return np.maximum(values, 0), Clipped(int(np.count_nonzero(values < 0)), written)


def _on_voxels_of(
    image: nibabel.Nifti1Image, volume: np.ndarray, grid: Grid, alignment: np.ndarray | None
) -> np.ndarray:
    """A volume of the grid at the image's voxels, 0 beside the grid."""
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
    """A statistical map: (V,) values at the brain mask's voxels, 0 elsewhere, as float32 NIfTI in template space."""
    volume = np.zeros(grid.shape, np.float32)
    volume[grid.mask] = values
    image = nibabel.Nifti1Image(volume, grid.affine)
    for set_form in (image.set_sform, image.set_qform):
        set_form(grid.affine, code="mni")
    image.header.set_xyzt_units("mm")
    write_atomically(path, lambda temporary: nibabel.save(image, temporary))


def read_map(path: pathlib.Path) -> np.ndarray:
    """A map that `write_map` wrote, `grid.shape` float32."""
    return np.asarray(nibabel.load(path).dataobj, np.float32)  # type: ignore[attr-defined]
