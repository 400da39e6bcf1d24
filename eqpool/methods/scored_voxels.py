"""Gathers some voxels of the volumes that a scorecard reads, one volume at a time."""

import pathlib
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from eqpool.data.cohort import Cohort
from eqpool.data.sources.simulated import scanner_free_path
from eqpool.data.volumes.parallel import in_parallel
from eqpool.data.volumes.read import prepare_volume
from eqpool.evaluate.input_features import sub_grid
from eqpool.evaluate.scorecard import RAW, TRUTH
from eqpool.evaluate.scored_rows import choose_rows
from eqpool.methods.derivatives import to_z_scores
from eqpool.storage.progress import track

CALIBRATED = "calibrated"


class ScoredVoxels:
    """The voxels of a regular sub-grid inside the brain mask, of the rows that are scored.

    Memory is at most 2000 rows times 10 000 voxels for each version, whatever the cohort. Threads may share it, as each
    row is stored once.

    Attributes:
      rows: (N,) sorted indices of the cohort's rows that are scored.
      handed_back: name of the version that users get.
      versions: (N, V) float32 by the version's name, in z-scores of each row's own tissue.
    """

    def __init__(self, cohort: Cohort, seed: int, handed_back: str):
        """Chooses the rows and the voxels of a cohort of volumes."""
        assert cohort.volumes is not None
        self.handed_back = handed_back
        self.rows = choose_rows(cohort.split, cohort.participant_id, seed)
        self.versions: dict[str, np.ndarray] = {}
        self._place = {int(row): place for place, row in enumerate(self.rows)}
        self._lock = threading.Lock()
        self._voxels = np.flatnonzero(sub_grid(cohort.volumes.grid))

    def __contains__(self, row: int) -> bool:
        """Whether the row is scored."""
        return row in self._place

    def take(
        self,
        row: int,
        raw: np.ndarray,
        truth: np.ndarray | None,
        handed_back: np.ndarray | None,
        calibrated: np.ndarray | None = None,
    ) -> None:
        """Stores the voxels of one row's volumes, where known.

        They are the input, the volume without a scanner, as handed back, and after the site calibration alone.
        """
        given = {RAW: raw, TRUTH: truth, self.handed_back: handed_back, CALIBRATED: calibrated}
        for name, volume in given.items():
            if volume is not None:
                with self._lock:
                    stored = self.versions.setdefault(name, np.empty((len(self.rows), len(self._voxels)), np.float32))
                stored[self._place[row]] = volume.ravel()[self._voxels]

    def take_truth(self, volumes: Iterable[np.ndarray], *, squash: bool) -> None:
        """Stores the voxels of all rows' volumes, in the order of `rows`, as the truth in place of any other."""
        shown = track(volumes, "Making the truth", unit="volume", total=len(self.rows))
        self.versions[TRUTH] = np.stack([to_z_scores(volume, squash).ravel()[self._voxels] for volume in shown])

    def take_inputs(self, cohort: Cohort, *, squash: bool, workers: int) -> None:
        """Stores the voxels of the prepared volumes, calibrated if they are, and without a scanner if simulated."""
        assert cohort.volumes is not None
        is_calibrated = cohort.volumes.calibration is not None

        def work(one: tuple[int, np.ndarray]) -> None:
            row, raw = one[0], to_z_scores(one[1], squash)
            calibrated = to_z_scores(cohort.inputs[row], squash) if is_calibrated else None
            self.take(row, raw, scanner_free_volume(cohort, row), None, calibrated)

        volumes: Iterator[tuple[int, np.ndarray]] = ((int(row), cohort.uncalibrated[int(row)]) for row in self.rows)
        label = "Gathering voxels"
        with in_parallel(work, volumes, workers=workers, progress=True, label=label, total=len(self.rows)) as done:
            for _ in done:
                pass


def scanner_free_volume(cohort: Cohort, row: int) -> np.ndarray | None:
    """Returns a simulated row's volume as it is without a scanner, `grid.shape` float32 z-scores, else None.

    It is prepared with the alignment that was found for the row's image, so that their voxels show the same places.
    """
    if not cohort.simulated or cohort.volumes is None:
        return None
    volumes = cohort.volumes
    path = scanner_free_path(pathlib.Path(volumes.image_path[row]))
    return prepare_volume(path, volumes.grid, alignment=volumes.facts_of(row).alignment)[0]


def scanner_free_brain(cohort: Cohort, row: int) -> np.ndarray:
    """Returns the (V,) voxels of `scanner_free_volume` inside the brain mask. The cohort has simulated volumes."""
    volume = scanner_free_volume(cohort, row)
    assert cohort.volumes is not None and volume is not None
    return volume[cohort.volumes.grid.mask]
