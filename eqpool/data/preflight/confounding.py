"""Finds covariates, targets and nuisances that are confounded with the site or with one another."""

import itertools
from collections.abc import Iterator

import numpy as np

from eqpool.data.cohort import Cohort
from eqpool.data.preflight.association import (
    condition_number,
    cramers_v,
    decided_by,
    eta_squared,
    overlap,
    site_design,
    support,
)
from eqpool.data.preflight.finding import Finding

_LARGE_ETA_SQUARED = 0.14  # Cohen's convention for a large effect
_LARGE_CRAMERS_V = 0.3
_LARGE_CONDITION_NUMBER = 30.0  # Belsley's convention for a harmful collinearity


def covariate_and_site(cohort: Cohort, index: int) -> Iterator[Finding]:
    """Reports a covariate that is associated with the site, and refuses one that the site determines."""
    name, values = cohort.covariate_names[index], cohort.covariates[:, index]
    eta = eta_squared(values, cohort.site)
    if decided_by(np.unique(values, return_inverse=True)[1], cohort.site):
        yield Finding(
            "refusal",
            "covariate_confounded",
            f"covariate {name} is decided by the site: each site has one value of it; expected sites within which it "
            "varies, or drop it",
            {"covariate": name, "eta_squared": 1.0},
        )
    elif eta >= _LARGE_ETA_SQUARED:
        yield Finding(
            "warning",
            "covariate_confounded",
            f"site explains {eta:.0%} of the variance of {name} (eta^2 {eta:.2f}). A correction for site "
            f"without {name} would remove part of its effect. Data that keep {name} predict the site to that extent",
            {"covariate": name, "eta_squared": eta},
        )


def covariate_overlap(cohort: Cohort, index: int) -> Iterator[Finding]:
    """Reports which pairs of sites have no covariate range in common, from the 5th to the 95th percentile."""
    name = cohort.covariate_names[index]
    ranges = {
        site: support(cohort.covariates[cohort.site == number, index])
        for number, site in enumerate(cohort.site_names)
        if np.any(cohort.site == number)
    }
    shares = {
        (first, second): overlap(ranges[first], ranges[second]) for first, second in itertools.combinations(ranges, 2)
    }
    apart = [pair for pair, share in shares.items() if share == 0]
    numbers = {
        "covariate": name,
        "support": {site: list(limits) for site, limits in ranges.items()},
        "overlap": [[*pair, share] for pair, share in shares.items()],
    }
    if not apart:
        pairs = "the two sites overlap" if len(shares) == 1 else f"all {len(shares)} pairs of sites overlap"
        yield Finding("info", "covariate_overlap", f"{name}: {pairs}", numbers)
        return
    first, second = apart[0]
    example = f"{first} {_interval(ranges[first])} and {second} {_interval(ranges[second])}"
    pairs = "the two sites" if len(shares) == 1 else f"{len(apart)} of {len(shares)} pairs of sites"
    such = "" if len(apart) == 1 else "such as "
    yield Finding(
        "warning",
        "covariate_overlap",
        f"{name}: {pairs} do not overlap (5th to 95th percentile), {such}{example}. Between them only the model's "
        f"assumptions separate site and {name}. Check that its effect is smooth",
        numbers,
    )


def _interval(limits: tuple[float, float]) -> str:
    return f"({limits[0]:.3g} to {limits[1]:.3g})"


def target_and_site(cohort: Cohort) -> Iterator[Finding]:
    """Reports a target that is associated with the site, and refuses one that the site determines."""
    if not cohort.target_name:
        return
    name, (label, strength, large, measure) = cohort.target_name, _target_association(cohort)
    if decided_by(label, cohort.site):
        yield Finding(
            "refusal",
            "target_confounded",
            f"target {name} is decided by the site: each site has one value of it, so that no method can separate the "
            "scanner from the target; expected both classes at some site at least",
            {"target": name, "association": 1.0},
        )
    elif strength >= large:
        yield Finding(
            "warning",
            "target_confounded",
            f"target {name} is associated with the site ({measure} {strength:.2f}). Removing the site removes part of "
            "it. Compare with a cohort that is cut to balance",
            {"target": name, "association": strength},
        )


def _target_association(cohort: Cohort) -> tuple[np.ndarray, float, float, str]:
    """Returns the target as labels (N,), its association with the site, the threshold for a warning and the measure."""
    if cohort.target_classes:
        return cohort.target, cramers_v(cohort.target, cohort.site), _LARGE_CRAMERS_V, "Cramer's V"
    known = np.isfinite(cohort.target)
    label = np.full(cohort.target.shape, -1, np.int64)
    label[known] = np.unique(cohort.target[known], return_inverse=True)[1]
    return label, eta_squared(cohort.target, cohort.site), _LARGE_ETA_SQUARED, "eta^2"


def nuisance_and_target(cohort: Cohort) -> Iterator[Finding]:
    """Reports a target that is associated with a nuisance, and refuses one that the nuisance determines."""
    if cohort.nuisance is None or not cohort.target_classes:
        return
    for index, name in enumerate(cohort.nuisance_names):
        strength = cramers_v(cohort.target, cohort.nuisance[:, index])
        numbers = {"nuisance": name, "target": cohort.target_name, "association": strength}
        if decided_by(cohort.target, cohort.nuisance[:, index]):
            yield Finding(
                "refusal",
                "nuisance_confounded",
                f"target {cohort.target_name} is decided by the nuisance {name}: what does not predict "
                f"{name} cannot predict the target; expected each class at some level of it",
                numbers,
            )
        elif strength >= _LARGE_CRAMERS_V:
            yield Finding(
                "warning",
                "nuisance_confounded",
                f"target {cohort.target_name} is associated with the nuisance {name} (Cramer's V {strength:.2f}). "
                f"Removing {name} removes part of it",
                numbers,
            )


def collinearity(cohort: Cohort) -> Iterator[Finding]:
    """Reports the condition number of sites and covariates, and refuses an infinite one."""
    known = cohort.site >= 0
    if not known.any() or not cohort.covariate_names:
        return
    number = condition_number(site_design(cohort.site[known], cohort.covariates[known]))
    finite = number if np.isfinite(number) else None
    if number >= _LARGE_CONDITION_NUMBER:
        yield Finding(
            "warning" if finite else "refusal",
            "condition_number",
            f"sites and covariates ({', '.join(cohort.covariate_names)}) are collinear: condition number {number:.3g}, "
            f"expected below {_LARGE_CONDITION_NUMBER:g}; drop a covariate or merge sites",
            {"condition_number": finite},
        )
    else:
        message = f"condition number of sites and covariates: {number:.3g}"
        yield Finding("info", "condition_number", message, {"condition_number": finite})
