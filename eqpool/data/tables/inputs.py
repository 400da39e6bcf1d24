"""The part of a cohort that only tables have."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.encoding import FeatureEncoding


@dataclasses.dataclass(frozen=True)
class TableInputs:
    """The features of N table rows.

    Attributes:
      input_names: names of the F encoded features.
      encoded: (N, F) float32, the encoded features before the site calibration. The cohort's `inputs` are these, or
        these calibrated.
      encoding: encoding of a participants table's columns, None for public tables.
      calibration: site calibration that was applied, None if there was none.
      features: the N rows of feature columns in their own units, NaN where missing, None for public tables.
    """

    input_names: tuple[str, ...]
    encoded: np.ndarray
    encoding: FeatureEncoding | None = None
    calibration: SiteCalibration | None = None
    features: pd.DataFrame | None = None

    @property
    def is_number(self) -> np.ndarray:
        """Returns which encoded features are numbers, (F,) bool. Categories are handed back as they came."""
        if self.encoding is None:
            return np.ones(self.encoded.shape[1], bool)
        return np.isin(self.input_names, [column.name for column in self.encoding.numbers])

    def take(self, rows: np.ndarray) -> TableInputs:
        """Returns the part for some rows, in the order of `rows`."""
        features = None if self.features is None else self.features.iloc[rows]
        return dataclasses.replace(self, encoded=self.encoded[rows], features=features)
