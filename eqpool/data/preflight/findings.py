"""The pre-flight check: reports doubtful properties of a cohort, with numbers and advice, before training."""

from collections.abc import Iterator

import numpy as np

from eqpool.data.cohort import Cohort
from eqpool.data.preflight.confounding import (
    collinearity,
    covariate_and_site,
    covariate_overlap,
    nuisance_and_target,
    target_and_site,
)
from eqpool.data.preflight.finding import Finding
from eqpool.data.preflight.held_out import held_out_findings
from eqpool.data.preflight.sentinels import implausible_values
from eqpool.errors import listed

_FEW_SUBJECTS = 10  # at a site. Fewer give a poor estimate of its scanner effect
_RARE_CLASS = 0.1  # share of a class at a site
_MOST_NAMED = 5


def examine(cohort: Cohort) -> list[Finding]:
    """Returns the findings on a cohort's design, then those made on its features or volumes when it was read."""
    return [*examine_design(cohort), *cohort.findings]


def examine_design(cohort: Cohort, *, with_sites: bool = True) -> list[Finding]:
    """Examines sites, covariates and target against each other, without the features.

    With `with_sites` False, nothing is pooled, and only the checks that need no site are made.
    """
    alone = [*_constant_covariates(cohort), *_implausible(cohort), *nuisance_and_target(cohort)]
    if not with_sites:
        return alone
    if len(cohort.site_names) < 2:
        found = ", ".join(cohort.site_names) or "none"
        message = f"{len(cohort.site_names)} site ({found}), expected at least two to pool"
        return [Finding("refusal", "subjects_per_site", message, {"sites": list(cohort.site_names)})]
    findings = [*_subjects(cohort), *_classes(cohort), *_unknown(cohort)]
    for index in range(len(cohort.covariate_names)):
        findings += [*covariate_and_site(cohort, index), *covariate_overlap(cohort, index)]
    return [*findings, *target_and_site(cohort), *alone, *collinearity(cohort), *held_out_findings(cohort)]


def _subjects(cohort: Cohort) -> Iterator[Finding]:
    counts = {
        name: len(np.unique(cohort.participant_id[cohort.site == index]))
        for index, name in enumerate(cohort.site_names)
    }
    yield Finding(
        "info",
        "subjects_per_site",
        f"{len(counts)} sites with {_range(list(counts.values()))}",
        {"subjects": counts},
    )
    few = {name: count for name, count in counts.items() if count < _FEW_SUBJECTS}
    if few:
        yield Finding(
            "warning",
            "subjects_per_site",
            f"{len(few)} sites have fewer than {_FEW_SUBJECTS} subjects ({_counted(few)}). Their scanner effects are "
            "hardly known. Leave them out, or merge sites of one scanner",
            {"few": few},
        )


def _classes(cohort: Cohort) -> Iterator[Finding]:
    if not cohort.target_classes:
        return
    table = {}
    lacking = {}
    for index, name in enumerate(cohort.site_names):
        target = cohort.target[cohort.site == index]
        counts = [int(np.sum(target == label)) for label in range(len(cohort.target_classes))]
        table[name] = dict(zip(cohort.target_classes, counts, strict=True))
        if sum(counts) and min(counts) < _RARE_CLASS * sum(counts):
            lacking[name] = min(counts)
    by_site = "; ".join(f"{site}: {_counts(table[site])}" for site in list(table)[:_MOST_NAMED])
    more = f"; {len(table) - _MOST_NAMED} more sites" if len(table) > _MOST_NAMED else ""
    yield Finding("info", "class_balance", f"{cohort.target_name} by site: {by_site}{more}", {"sites": table})
    if lacking:
        yield Finding(
            "warning",
            "class_balance",
            f"at {len(lacking)} of {len(table)} sites a class of {cohort.target_name} has less than "
            f"{_RARE_CLASS:.0%} of the rows ({_counted(lacking)}). Class and scanner are hard to separate there",
            {"lacking": lacking},
        )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _range(counts: list[int]) -> str:
    """Returns a text such as "20 subjects each" or "3 to 20 subjects"."""
    low, high = min(counts), max(counts)
    return f"{low} to {high} subjects" if low < high else f"{low} subjects each"


def _unknown(cohort: Cohort) -> Iterator[Finding]:
    unknown = {
        "site": int(np.sum(cohort.site < 0)),
        "target": int(np.sum(~cohort.target_known)) if cohort.target_name else 0,
    }
    if any(unknown.values()):
        yield Finding(
            "warning",
            "unknown_rows",
            f"the site is unknown in {unknown['site']} rows and the target in {unknown['target']}. Training uses these "
            "rows where it needs neither",
            unknown,
        )


def _constant_covariates(cohort: Cohort) -> Iterator[Finding]:
    for name, values in zip(cohort.covariate_names, cohort.covariates.T, strict=True):
        if values.max() == values.min():
            yield Finding(
                "refusal",
                "constant_covariate",
                f"covariate {name} is constant ({values[0]:g}), expected one that varies, or drop it",
                {"covariate": name},
            )


def _implausible(cohort: Cohort) -> Iterator[Finding]:
    """Finds implausible values in the covariates and a numeric target."""
    measured = dict(zip([f"covariate {name}" for name in cohort.covariate_names], cohort.covariates.T, strict=True))
    if cohort.target_name and not cohort.target_classes:
        measured[f"target {cohort.target_name}"] = cohort.target
    for name, values in measured.items():
        for value, rows, is_code, distance in implausible_values(values):
            who = [str(cohort.participant_id[row]) for row in rows]
            what = "It looks like a code for a missing value: write n/a for it" if is_code else "Check it"
            yield Finding(
                "warning",
                "implausible_values",
                f"{name}: {value:g} in {len(rows)} rows ({listed(who)}) lies {distance:.3g} robust deviations from the "
                f"median. {what}, because the lowest and the highest value set the scale of all others",
                {"column": name, "value": value, "rows": who},
            )


def _counted(counts: dict[str, int]) -> str:
    return listed([f"{name} {count}" for name, count in counts.items()])
