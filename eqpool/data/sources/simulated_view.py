"""Shows any brain of a simulated cohort as one of the cohort's scanners would have scanned it."""

import pathlib

import nibabel
import numpy as np

from eqpool.data.sources.simulated import NAME, CohortSpecification, scanner_free_path
from eqpool.data.sources.simulated_anatomy import Canvas
from eqpool.data.sources.simulated_scanner import TRUTH_UNIT, coil_field, draws_of_scan, scan
from eqpool.data.volumes.inputs import Grid


class ScannerView:
    """One scanner of a simulated cohort.

    A subject's scan varies about the mean settings of the scanner by draws that belong to the subject. They are the
    same in every view, noise included. The view through the subject's own scanner is therefore the image itself, and
    another view differs from it by the scanner alone.
    """

    def __init__(self, specification: CohortSpecification, site: str, grid: Grid, seed: int):
        """Prepares the scanner of a site; `grid` and `seed` are those that the cohort was built with."""
        (self._scanner,) = (one.scanner for one in specification.sites if one.name == site)
        self._canvas, self._seed = Canvas(grid), seed
        self._coil = coil_field(self._canvas, self._scanner)

    def of(self, image: pathlib.Path) -> nibabel.Nifti1Image:
        """Returns the scan of the subject of an image of the cohort, int16 on the cohort's grid.

        The result equals what the simulator would have written, up to the rounding of the scanner-free image, which is
        stored in thousandths of white matter.
        """
        stored = nibabel.load(scanner_free_path(image))
        truth = np.asarray(stored.dataobj, np.float32)[self._canvas.near] / np.float32(TRUTH_UNIT)  # type: ignore
        variation = draws_of_scan(self._seed, _number(image))
        volume = scan(truth, self._canvas, self._scanner, self._coil, variation)
        return nibabel.Nifti1Image(np.rint(volume).astype(np.int16), self._canvas.grid.affine)


def _number(image: pathlib.Path) -> int:
    """Returns the number of the subject, which follows `NAME` in the image's name."""
    return int(image.name.partition("_")[0].removeprefix(NAME))
