"""Hashes of a cohort that identify the rows and, for the report, the inputs of a run."""

import hashlib

import numpy as np

from eqpool.data.cohort import Cohort
from eqpool.data.volumes.calibrated import Inputs
from eqpool.storage.progress import track


def rows_digest(cohort: Cohort) -> "hashlib._Hash":
    """Returns a SHA-256 over the cohort's names, split, site, covariates and target, to be updated further.

    Sessions and nuisances are included only if there are any, so that cohorts without them keep their earlier hashes.
    """
    digest = hashlib.sha256(repr((cohort.site_names, cohort.covariate_names, cohort.target_classes)).encode())
    for column in (cohort.participant_id, cohort.split, cohort.site, cohort.covariates, cohort.target):
        digest.update(np.ascontiguousarray(column).tobytes())
    if cohort.session is not None and (cohort.session != "").any():
        digest.update(repr(cohort.session.tolist()).encode())
    if cohort.nuisance is not None:
        digest.update(repr((cohort.nuisance_names, cohort.nuisance_levels, cohort.nuisance.tolist())).encode())
    return digest


def data_hash(cohort: Cohort) -> str:
    """Returns 64 hexadecimal digits over `rows_digest` and every input, read row by row.

    Equal hashes mean the same rows, split and inputs, bit by bit. Inputs are hashed after preparation, so another
    version of the preparation may change the hash. Volumes are hashed before the site calibration, which depends on the
    rows and the config alone, up to rounding.
    """
    digest = rows_digest(cohort)
    for row in track(_hashed(cohort), "Hashing the data", unit="row"):
        digest.update(np.ascontiguousarray(row).tobytes())
    return digest.hexdigest()


def _hashed(cohort: Cohort) -> Inputs:
    return cohort.inputs if cohort.volumes is None else cohort.uncalibrated
