"""Applies the design check of `eqpool.preflight` to the arguments of `EquivariantPooling.fit`."""

import warnings
from typing import Any

import numpy as np
import pandas as pd

from eqpool.data.cohort import Cohort
from eqpool.data.preflight.features import examine_features
from eqpool.data.preflight.finding import refuse
from eqpool.data.preflight.findings import examine_design
from eqpool.data.tables.coding import code_labels
from eqpool.data.tables.targets import TargetCoding


class DesignWarning(UserWarning):
    """Warning that the design makes the result doubtful, for example a covariate that is associated with the site."""


def examine_fit(
    features: pd.DataFrame,
    site: np.ndarray | None,
    covariates: np.ndarray,
    covariate_names: tuple[str, ...],
    target: TargetCoding,
    y: Any,
    nuisance: np.ndarray | None,
    nuisance_names: tuple[str, ...],
) -> list[dict[str, Any]]:
    """Examines N rows, each a different subject, and returns every finding in the form of `Finding.to_dict`.

    Args:
      features: (N, F) float64 features, NaN where missing.
      site: (N,) labels. None, if `fit` was given no sites, skips the checks of sites.
      covariates: (N, C) float64 covariates.
      covariate_names: the C names.
      target: coding of y.
      y: (N,) target in the form that `fit` received.
      nuisance: (N, Q) int32 levels, -1 where unknown. None without nuisances.
      nuisance_names: the Q names.

    Raises:
      InputError: a finding is a refusal. The message is that of the first one.

    Warns:
      DesignWarning: for each finding that is a warning.
    """
    rows = np.array([f"row {row}" for row in range(len(features))], np.str_)
    codes, names = code_labels(np.full(len(features), "") if site is None else site)
    coded, known = target.encode(y, len(features))
    if target.kind == "classes":
        values = np.where(known > 0, coded, -1).astype(np.int32)
    else:
        values = np.where(known > 0, coded * target.deviation + target.mean, np.nan).astype(np.float32)
    cohort = Cohort(
        name="X",
        simulated=False,
        participant_id=rows,
        inputs=np.zeros((len(features), 0), np.float32),
        site=codes,
        site_names=names,
        covariates=covariates,
        covariate_names=covariate_names,
        target=values,
        target_name="" if target.kind == "none" else str(getattr(y, "name", None) or "y"),
        target_classes=target.class_names,
        split=np.full(len(features), "train"),
        nuisance=nuisance,
        nuisance_names=nuisance_names,
    )
    findings = [*examine_design(cohort, with_sites=site is not None), *examine_features(features, rows)]
    refuse(findings)
    for finding in findings:
        if finding.severity == "warning":
            warnings.warn(f"{finding.check}: {finding.message}", DesignWarning, stacklevel=3)
    return [finding.to_dict() for finding in findings]
