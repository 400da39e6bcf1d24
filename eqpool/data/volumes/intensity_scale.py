"""A common intensity scale for the harmonised volumes of all scanners, learnt from the tissue of the training rows."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class CommonScale:
    """The tissue mean and deviation that every harmonised volume has on the common scale.

    Attributes:
      mean, deviation: medians over scans of the tissue mean and of the tissue deviation, in the units of these scans.
      scans: number of these scans.
      site: site of these scans, "" if they are of all sites.
    """

    mean: float
    deviation: float
    scans: int
    site: str = ""

    def __post_init__(self) -> None:
        """Raises `ValueError` for numbers that no tissue has, as a damaged file may hold them."""
        if not (math.isfinite(self.mean) and 0 < self.deviation < math.inf):
            raise ValueError(f"a common scale of mean {self.mean} and deviation {self.deviation}")

    @classmethod
    def fit(cls, mean: np.ndarray, deviation: np.ndarray, site: str = "") -> CommonScale:
        """Returns the medians of the (N,) tissue means and deviations of N scans, which are of `site` if it is given.

        A minority of scans with another gain does not move them.
        """
        return cls(float(np.median(mean)), float(np.median(deviation)), len(mean), site)

    @property
    def is_positive(self) -> bool:
        """Whether tissue lies above 0 on this scale, which is not so if the scans themselves are z-scores."""
        return self.mean > self.deviation

    @property
    def origin(self) -> str:
        """What the scale was learnt from, in words."""
        return f"medians over {self.scans} training scans{f' of site {self.site}' if self.site else ''}"

    def apply(self, values: np.ndarray, mean: float, deviation: float) -> np.ndarray:
        """Converts the intensities of a volume with this tissue mean and deviation, in the dtype of `values`."""
        return self.mean + (self.deviation / deviation) * (values - mean)
