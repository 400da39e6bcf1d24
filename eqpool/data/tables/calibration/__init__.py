"""Estimates each scanner's effect on tabular features, and removes it before training.

Covariates and target are regressed out, and each site's features are mapped onto those of the average scanner, or of a
reference site: their location, their scale, and their covariance as far as held-out rows support it. Rules:

- Effects are draws from one distribution, which is estimated from the known sites. Each estimate is shrunk towards it
  by its sampling error (empirical Bayes), so that small sites move little.
- The scale acts in every direction, for it is a property of the measurement. The correction of the covariance leaves
  the directions in which covariates and target act.
- Each site is scaled about its own mean, so that applying the calibration needs neither covariates nor target.
"""

from eqpool.data.tables.calibration.effect import SiteEffect
from eqpool.data.tables.calibration.model import METHODS, SiteCalibration

__all__ = ["METHODS", "SiteCalibration", "SiteEffect"]
