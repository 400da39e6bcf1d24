"""Writes and reads the site calibration of a run, of features or of volumes."""

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.site_effects.voxelwise import VoxelCalibration
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.volumes.grids import named_grid
from eqpool.errors import InputError
from eqpool.methods.facts import ModelFacts
from eqpool.storage import files
from eqpool.storage.run_folder import RunFolder

Calibration = SiteCalibration | VoxelCalibration


def write_calibration(cohort: Cohort, folder: RunFolder) -> None:
    """Writes calibration.npz, if the cohort has a site calibration."""
    part = cohort.table or cohort.volumes
    if part is not None and part.calibration is not None:
        files.write_arrays(folder.calibration_file, part.calibration.to_arrays())


def read_calibration(folder: RunFolder, config: RunConfig, facts: ModelFacts) -> Calibration | None:
    """Reads the calibration of a run, None if it has none.

    Raises:
      InputError: the file is missing or damaged, or its effects are on another grid than the run's volumes.
    """
    path = folder.calibration_file
    if not path.is_file():
        if facts.on_volumes and config.data.site_calibration != "none":
            raise InputError(f"{path}: not found, and the run's volumes were calibrated; expected what the run wrote")
        return None
    arrays = files.read_arrays(path)
    if not facts.on_volumes:
        return SiteCalibration.from_arrays(arrays)
    calibration = VoxelCalibration.from_arrays(arrays, str(path))
    shape = named_grid(config.data.grid).shape
    if calibration.mask.shape != shape:
        raise InputError(f"{path}: effects on a grid of {calibration.mask.shape} voxels, expected {shape}")
    return calibration
