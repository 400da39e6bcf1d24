"""The verdict on one metric, which follows from its 95% interval."""

from collections.abc import Callable
from typing import Any, Literal

Metrics = dict[str, Any]
Verdict = Literal["good", "bad", "open", "plain"]
Judgement = tuple[Verdict, str]  # the verdict, and the interpretation in words
Judge = Callable[[Metrics, str], Judgement]  # of all metrics of a run, and the name of the one to judge


def compare(interval: tuple[float, float] | None, level: float | None, *, higher_is_better: bool) -> Verdict:
    """Returns the verdict for an interval: "open" if it contains `level`, and "plain" if either is missing.

    Otherwise the verdict is "good" or "bad", depending on the side of `level` on which the interval lies.
    """
    if not interval or level is None:
        return "plain"
    low, high = interval
    if low <= level <= high:
        return "open"
    return "good" if (low > level) == higher_is_better else "bad"
