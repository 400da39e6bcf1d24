"""The pre-flight check: reports doubtful properties of a cohort, with numbers and advice, before training."""

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

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
from eqpool.data.preflight.held_out import HeldOut, examine_held_out
from eqpool.data.preflight.sentinels import implausible_values

FEW_SUBJECTS = 10  # at a site. Fewer give a poor estimate of its scanner effect
RARE_CLASS = 0.1  # share of a class at a site
LARGE_ETA_SQUARED = 0.14  # Cohen's convention for a large effect
LARGE_CRAMERS_V = 0.3
LARGE_CONDITION_NUMBER = 30.0  # Belsley's convention for a harmful collinearity
NEARLY_EMPTY = 0.05  # share of rows that hold a value other than 0
MOST_NAMED = 5
HELD_OUT = "held_out_people"  # the check with warnings at the top of log and report


def examine(cohort: Cohort) -> list[Finding]:
    """Returns the findings on a cohort's design, then those made on its features or volumes when it was read."""
    return [*examine_design(cohort), *cohort.findings]


def examine_design(cohort: Cohort, *, with_sites: bool = True) -> list[Finding]:
    """Examines sites, covariates and target against each other, without the features.

    With `with_sites` False, nothing is pooled, and only the checks that need no site are made.
    """
    alone = [*_constant_covariates(cohort), *_implausible(cohort), *_nuisance_and_target(cohort)]
    if not with_sites:
        return alone
    if len(cohort.site_names) < 2:
        found = ", ".join(cohort.site_names) or "none"
        message = f"{len(cohort.site_names)} site ({found}), expected at least two to pool"
        return [Finding("refusal", "subjects_per_site", message, {"sites": list(cohort.site_names)})]
    findings = [*_subjects(cohort), *_classes(cohort), *_unknown(cohort)]
    for index in range(len(cohort.covariate_names)):
        findings += [*_covariate_and_site(cohort, index), *_covariate_overlap(cohort, index)]
    return [*findings, *_target_and_site(cohort), *alone, *_condition(cohort), *_held_out(cohort)]


def examine_features(frame: pd.DataFrame, names: np.ndarray) -> list[Finding]:
    """Finds missing values, failed measurements, uninformative columns and repeated rows.

    Args:
      frame: N rows. Float columns are numbers, with NaN for missing values. Other columns are text.
      names: (N,) participants, for messages.
    """
    return [
        *_missing(frame),
        *_nearly_empty(frame),
        *_failed(frame),
        *_coded(frame, names),
        *_constant(frame),
        *_same_rows(frame, names),
    ]


def _held_out(cohort: Cohort) -> Iterator[Finding]:
    """Reports whether the test split has the people that a result needs (`eqpool.data.preflight.held_out`)."""
    if not np.any(cohort.split == "test"):  # as in the estimator, which holds nobody out
        return
    results = list(examine_held_out(cohort))
    few = [result for result in results if not result.is_enough]
    numbers = {result.name: {"people": list(result.people), "half_width": result.half_width} for result in results}
    describe = HeldOut.describe
    if few:
        message = (
            f"few people are held out, so that most results will stay undecided: {', '.join(map(describe, few))}; pool "
            "more people, hold more of them out (config.data.test_fraction), or read several splits together"
        )
        yield Finding("warning", HELD_OUT, message, {"held_out": numbers})
    elif results:
        message = f"enough people are held out: {', '.join(map(describe, results))}"
        yield Finding("info", HELD_OUT, message, {"held_out": numbers})


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
    few = {name: count for name, count in counts.items() if count < FEW_SUBJECTS}
    if few:
        yield Finding(
            "warning",
            "subjects_per_site",
            f"{len(few)} sites have fewer than {FEW_SUBJECTS} subjects ({_counted(few)}); their scanner effect is "
            "hardly known, leave them out or merge sites of one scanner",
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
        if sum(counts) and min(counts) < RARE_CLASS * sum(counts):
            lacking[name] = min(counts)
    by_site = "; ".join(f"{site}: {_counts(table[site])}" for site in list(table)[:MOST_NAMED])
    more = f"; {len(table) - MOST_NAMED} more sites" if len(table) > MOST_NAMED else ""
    yield Finding("info", "class_balance", f"{cohort.target_name} by site: {by_site}{more}", {"sites": table})
    if lacking:
        yield Finding(
            "warning",
            "class_balance",
            f"at {len(lacking)} of {len(table)} sites a class of {cohort.target_name} has less than "
            f"{RARE_CLASS:.0%} of the rows ({_counted(lacking)}); there class and scanner are hard to tell apart",
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
            f"site unknown in {unknown['site']} rows, target in {unknown['target']}; they are used for reconstruction "
            "and equivariance, not where the unknown is needed",
            unknown,
        )


def _covariate_and_site(cohort: Cohort, index: int) -> Iterator[Finding]:
    name, values = cohort.covariate_names[index], cohort.covariates[:, index]
    known = cohort.site >= 0
    eta = eta_squared(values, cohort.site)
    if decided_by(np.unique(values, return_inverse=True)[1], np.where(known, cohort.site, -1)):
        yield Finding(
            "refusal",
            "covariate_confounded",
            f"covariate {name} is decided by the site: each site has one value of it; expected sites within which it "
            "varies, or drop it",
            {"covariate": name, "eta_squared": 1.0},
        )
    elif eta >= LARGE_ETA_SQUARED:
        yield Finding(
            "warning",
            "covariate_confounded",
            f"site explains {eta:.0%} of the variance of {name} (eta^2 {eta:.2f}); correcting for site without {name} "
            f"would take its effect away, and Phi, which keeps {name}, tells the site to that extent by design",
            {"covariate": name, "eta_squared": eta},
        )


def _covariate_overlap(cohort: Cohort, index: int) -> Iterator[Finding]:
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
        f"{name}: {pairs} do not overlap (5th to 95th percentile), {such}{example}; between them only the model "
        f"separates site and {name}, check that its effect is smooth",
        numbers,
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
            what = "looks like a code for a missing value; write n/a for it" if is_code else "check it"
            yield Finding(
                "warning",
                "implausible_values",
                f"{name}: {value:g} in {len(rows)} rows ({_named(who)}) lies {distance:.3g} robust deviations from the "
                f"median; {what}, as the range from the lowest to the highest value is what is scaled",
                {"column": name, "value": value, "rows": who},
            )


def _target_and_site(cohort: Cohort) -> Iterator[Finding]:
    if not cohort.target_name:
        return
    name, (label, strength, large, measure) = cohort.target_name, _target_association(cohort)
    if decided_by(label, cohort.site):
        yield Finding(
            "refusal",
            "target_confounded",
            f"target {name} is decided by the site: each site has one value of it, so that no method can tell the "
            "scanner from the target; expected both classes at some site at least",
            {"target": name, "association": 1.0},
        )
    elif strength >= large:
        yield Finding(
            "warning",
            "target_confounded",
            f"target {name} goes with the site ({measure} {strength:.2f}); what is invariant to the site loses part of "
            "it, compare with a cohort cut to balance",
            {"target": name, "association": strength},
        )


def _target_association(cohort: Cohort) -> tuple[np.ndarray, float, float, str]:
    """Returns the target as labels (N,), its association with the site, the threshold for a warning and the measure."""
    if cohort.target_classes:
        return cohort.target, cramers_v(cohort.target, cohort.site), LARGE_CRAMERS_V, "Cramer's V"
    known = np.isfinite(cohort.target)
    label = np.full(cohort.target.shape, -1, np.int64)
    label[known] = np.unique(cohort.target[known], return_inverse=True)[1]
    return label, eta_squared(cohort.target, cohort.site), LARGE_ETA_SQUARED, "eta^2"


def _nuisance_and_target(cohort: Cohort) -> Iterator[Finding]:
    if cohort.nuisance is None or not cohort.target_classes:
        return
    for index, name in enumerate(cohort.nuisance_names):
        strength = cramers_v(cohort.target, cohort.nuisance[:, index])
        numbers = {"nuisance": name, "target": cohort.target_name, "association": strength}
        if decided_by(cohort.target, cohort.nuisance[:, index]):
            yield Finding(
                "refusal",
                "nuisance_confounded",
                f"target {cohort.target_name} is decided by the nuisance {name}: what does not tell {name} cannot tell "
                "the target; expected each class at some level of it",
                numbers,
            )
        elif strength >= LARGE_CRAMERS_V:
            yield Finding(
                "warning",
                "nuisance_confounded",
                f"target {cohort.target_name} goes with the nuisance {name} (Cramer's V {strength:.2f}); what is "
                f"invariant to {name} loses part of it",
                numbers,
            )


def _condition(cohort: Cohort) -> Iterator[Finding]:
    known = cohort.site >= 0
    if not known.any() or not cohort.covariate_names:
        return
    number = condition_number(site_design(cohort.site[known], cohort.covariates[known]))
    finite = number if np.isfinite(number) else None
    if number >= LARGE_CONDITION_NUMBER:
        yield Finding(
            "warning" if finite else "refusal",
            "condition_number",
            f"sites and covariates ({', '.join(cohort.covariate_names)}) are collinear: condition number {number:.3g}, "
            f"expected below {LARGE_CONDITION_NUMBER:g}; drop a covariate or merge sites",
            {"condition_number": finite},
        )
    else:
        message = f"condition number of sites and covariates: {number:.3g}"
        yield Finding("info", "condition_number", message, {"condition_number": finite})


def _missing(frame: pd.DataFrame) -> Iterator[Finding]:
    shares = (frame.isna() | (frame == "")).mean()
    gone = [str(name) for name in shares.index[shares == 1]]
    if gone:
        yield Finding(
            "refusal",
            "missing_values",
            f"feature {gone[0]} has no value in any row ({len(gone)} such columns); leave it out of the features",
            {"columns": gone},
        )
    some = {str(name): float(share) for name, share in shares.items() if 0 < share < 1}
    if some:
        worst = max(some, key=some.__getitem__)
        yield Finding(
            "warning",
            "missing_values",
            f"{len(some)} of {shares.size} features have missing values, up to {some[worst]:.1%} ({worst}); they are "
            "set to the training mean",
            {"share": some},
        )


def _nearly_empty(frame: pd.DataFrame) -> Iterator[Finding]:
    """Finds numeric columns in which nearly every row is missing or 0."""
    numbers = frame.select_dtypes("float64")
    shares = (numbers.notna() & (numbers != 0)).mean()
    known = numbers.notna().any()
    zero = [str(name) for name in shares.index[(shares == 0) & known]]
    if zero:
        yield Finding(
            "warning",
            "nearly_empty_features",
            f"{len(zero)} features are 0 in all rows ({_named(zero)}); they hold no information and come back as they "
            "are, leave them out",
            {"columns": zero, "share": 0.0},
        )
    few = {str(name): float(share) for name, share in shares.items() if 0 < share <= NEARLY_EMPTY}
    if few:
        named = _named([f"{name} {share:.1%}" for name, share in few.items()])
        yield Finding(
            "warning",
            "nearly_empty_features",
            f"{len(few)} features are missing or 0 in nearly all rows (other values: {named}); a few rows decide their "
            "scale, leave them out",
            {"columns": list(few), "share": few},
        )


def _coded(frame: pd.DataFrame, names: np.ndarray) -> Iterator[Finding]:
    for name, column in frame.select_dtypes("float64").items():
        for value, rows, is_code, _ in implausible_values(column.to_numpy()):
            if is_code and value != 0:  # `_failed` reports zeros
                who = [str(names[row]) for row in rows]
                yield Finding(
                    "warning",
                    "implausible_values",
                    f"feature {name}: {value:g} in {len(rows)} rows ({_named(who)}) looks like a code for a missing "
                    "value; write n/a for it",
                    {"column": str(name), "value": value, "rows": who},
                )


def failed_values(frame: pd.DataFrame) -> pd.Series:
    """Counts the values that are exactly 0 in each numeric column with over 95% of its known values positive."""
    numbers = frame.select_dtypes("float64")
    known = numbers.notna().sum()
    positive = (numbers > 0).sum() > 0.95 * known
    return (numbers == 0).sum()[positive & (known > 0)]


def _failed(frame: pd.DataFrame) -> Iterator[Finding]:
    zeros = failed_values(frame)
    failed = {str(name): int(count) for name, count in zeros.items() if count}
    if failed:
        yield Finding(
            "warning",
            "failed_measurements",
            f"{sum(failed.values())} values are 0 in columns that are positive elsewhere ({_counted(failed)}): failed "
            "measurements; write n/a for them",
            {"zeros": failed},
        )


def _constant(frame: pd.DataFrame) -> Iterator[Finding]:
    constant = [str(name) for name in frame.columns if frame[name].nunique() == 1 and not (frame[name] == 0).any()]
    if constant:
        yield Finding(
            "warning",
            "constant_features",
            f"{len(constant)} features have one value in all rows ({_named(constant)}); they say nothing",
            {"columns": constant},
        )


def _same_rows(frame: pd.DataFrame, names: np.ndarray) -> Iterator[Finding]:
    if frame.shape[1] < 2:
        return
    # Two rows are the same if they miss the same values and share the others, although NaN does not equal NaN.
    number = frame.groupby(list(frame.columns), dropna=False, sort=False).ngroup().to_numpy()
    _, earliest = np.unique(number, return_index=True)
    earliest = earliest[number]
    rows = np.flatnonzero((earliest < np.arange(len(frame))) & (frame.notna().sum(axis=1) > 1).to_numpy())
    if rows.size:
        first = int(earliest[rows[0]])
        yield Finding(
            "warning",
            "duplicates",
            f"{rows.size} rows have the features of an earlier row, such as {names[rows[0]]} those of {names[first]}; "
            "a scan that stands in two splits makes every score too good, remove it",
            {"rows": [str(name) for name in names[rows]]},
        )


def _counted(counts: dict[str, int]) -> str:
    return _named([f"{name} {count}" for name, count in counts.items()])


def _named(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def _interval(limits: tuple[float, float]) -> str:
    return f"({limits[0]:.3g} to {limits[1]:.3g})"
