"""The images of a simulated cohort as one of its sites would show the same people: the truth of harmonising to it."""

import pathlib
from collections.abc import Iterator

import numpy as np

from eqpool.config import DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.load import SIMULATION_SEED
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.read import prepare_image


def reference_views(
    cohort: Cohort, config: DataConfig, rows: np.ndarray, reference: str, cache_dir: pathlib.Path | None = None
) -> Iterator[np.ndarray] | None:
    """Returns an iterator over rows as the reference site would show them, or None if that is not known.

    It is known of the cohorts that eqpool simulates (`eqpool.data.sources.simulated_view`) and of Morpho-MNIST, whose
    digits can be drawn in any domain. A row of the reference is as it is in the cohort.

    Args:
      cohort: the cohort.
      config: config that the cohort was loaded with.
      rows: (N,) indices of rows.
      reference: name of a site of the cohort.
      cache_dir: folder of the cache that it was loaded with, in which digits are found again.

    Returns:
      N float32 arrays of the shape and in the units of `cohort.inputs`: z-scores of each volume's own tissue, or their
      tanh if the config squashes, and the intensities of digits.
    """
    if not cohort.simulated or cohort.name != config.dataset:
        return None
    if cohort.volumes is None:
        assert cache_dir is not None
        return _digits(cohort, config, cache_dir, rows, reference)
    return _brains(cohort, config, rows, reference)


def _brains(cohort: Cohort, config: DataConfig, rows: np.ndarray, reference: str) -> Iterator[np.ndarray]:
    from eqpool.data.sources.simulated import SPECIFICATIONS  # nilearn, which it needs, takes a second to import
    from eqpool.data.sources.simulated_view import ScannerView

    assert cohort.volumes is not None
    grid = cohort.volumes.grid
    view = ScannerView(SPECIFICATIONS[config.dataset], reference, named_grid(config.grid), SIMULATION_SEED)
    for row in rows:
        path = pathlib.Path(cohort.volumes.image_path[row])
        yield prepare_image(view.of(path), path, grid, squash=config.squash).volume


def _digits(
    cohort: Cohort, config: DataConfig, cache_dir: pathlib.Path, rows: np.ndarray, reference: str
) -> Iterator[np.ndarray]:
    from eqpool.data.sources.morpho_view import view_digits  # tensorflow_datasets takes half a second to import

    yield from view_digits(config.raw_dir, cache_dir, cohort.participant_id[rows], reference, config.split_seed)
