"""Applies the design check of `eqpool.preflight` to the arguments of `EquivariantPooling.fit`."""

import warnings
from typing import Any

import numpy as np
import pandas as pd

from eqpool.data.cohort import Cohort
from eqpool.data.preflight.features import examine_features
from eqpool.data.preflight.finding import refuse
from eqpool.data.preflight.findings import examine_design
from eqpool.estimator.fit_rows import FitRows


class DesignWarning(UserWarning):
    """Warning that the design makes the result doubtful, for example a covariate that is associated with the site."""


def examine_fit(features: pd.DataFrame, rows: FitRows) -> list[dict[str, Any]]:
    """Examines the design of a fit and returns every finding in the form of `Finding.to_dict`.

    Args:
      features: (N, F) float64 features, NaN where missing.
      rows: the other arguments of `fit`. Without sites, the checks of sites are skipped.

    Raises:
      InputError: a finding is a refusal. The message is that of the first one.

    Warns:
      DesignWarning: for each finding that is a warning.
    """
    names = np.array([f"row {row}" for row in range(len(features))], np.str_)
    coding = rows.target_coding
    if coding.kind == "classes":
        target = np.where(rows.target_known > 0, rows.target, -1).astype(np.int32)
    else:
        numbers = rows.target * coding.deviation + coding.mean
        target = np.where(rows.target_known > 0, numbers, np.nan).astype(np.float32)
    cohort = Cohort(
        name="X",
        simulated=False,
        participant_id=names if rows.subject is None else rows.subject,
        inputs=np.zeros((len(features), 0), np.float32),
        site=rows.site_code,
        site_names=rows.sites,
        covariates=rows.covariates,
        covariate_names=rows.coding.names,
        target=target,
        target_name="" if coding.kind == "none" else rows.target_name,
        target_classes=coding.class_names,
        split=np.full(len(features), "train"),
        nuisance=rows.nuisance,
        nuisance_names=rows.nuisance_names,
    )
    findings = [*examine_design(cohort, with_sites=rows.with_sites), *examine_features(features, names)]
    refuse(findings)
    for finding in findings:
        if finding.severity == "warning":
            warnings.warn(f"{finding.check}: {finding.message}", DesignWarning, stacklevel=3)
    return [finding.to_dict() for finding in findings]
