"""Metrics as text, in one format for the terminal and the report.

A metric is shown as a number with its interval, or as "not defined" with the reason.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

_NOT_DEFINED = "not defined"
_ONE_VALUE = "the held-out rows have one value, or fewer than two have one that is known"
_NO_TARGET = "no held-out row has a known target"
# (pattern of a whole metric name, reason why that metric may be null or not finite)
_REASONS = (
    ("equivariance_error", "tau does not turn between held-out rows, so there is no rotation to compare with"),
    ("delta_eq", "the held-out rows have one value of the covariate, or tau is not finite"),
    (r".*r_squared", _ONE_VALUE),
    (r"(source_|before_|scratch_|finetuned_)?((balanced_)?accuracy|mae)", _NO_TARGET),
    (r"mmd(_covariate_free)?", "it takes held-out rows of two sites, with finite latents"),
    ("mmd_conditional", "too few held-out rows of different sites have similar covariates"),
)


def is_defined(value: Any) -> bool:
    """Returns True if a value of results.json is neither null nor a number that is not finite.

    For a list or tuple this must hold for each of its values.
    """
    values = value if isinstance(value, list | tuple) else (value,)
    return all(one is not None and not (isinstance(one, float) and not math.isfinite(one)) for one in values)


def format_number(value: float | None) -> str:
    """Returns a number with three significant digits, or "not defined"."""
    return f"{value:.3g}" if value is not None and is_defined(value) else _NOT_DEFINED


def format_metric(metrics: Mapping[str, Any], name: str) -> str:
    """Returns `value [low, high]`, the value alone if there is no interval, or "not defined"."""
    value, interval = metrics[name], metrics.get(f"{name}_interval")
    if not is_defined(value) or not interval or not is_defined(interval):
        return format_number(value)
    return f"{format_number(value)} [{format_number(interval[0])}, {format_number(interval[1])}]"


def why_not_defined(name: str) -> str:
    """Returns the reason why a metric is not defined, as far as it follows from the metric's name."""
    return next((reason for known, reason in _REASONS if re.fullmatch(known, name)), "on these held-out rows")
