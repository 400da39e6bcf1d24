"""Provides the harmonisation of tables as scikit-learn estimators.

pooling = EquivariantPooling().fit(X, y, site=site, covariates=age)
phi = pooling.transform(new_X)                  # needs neither site nor age nor target
harmonised = pooling.harmonise(new_X, site=new_site)

calibrated = SiteCalibrator().fit(X, y, site=site, covariates=age).transform(new_X, new_site)  # without networks
"""

from eqpool.data.tables.arrays import LabelWarning
from eqpool.estimator.calibrator import SiteCalibrator
from eqpool.estimator.design import DesignWarning
from eqpool.estimator.pooling import EquivariantPooling
from eqpool.estimator.site_table import FailedColumnWarning, UnseenSiteWarning

__all__ = [
    "DesignWarning",
    "EquivariantPooling",
    "FailedColumnWarning",
    "LabelWarning",
    "SiteCalibrator",
    "UnseenSiteWarning",
]
