"""Computes the number of held-out people that a result needs, from the width of its 95% interval at chance.

Balanced accuracy over K groups (sites, classes) is the mean of K recalls, each a share of the n_k people of a group. At
chance, 1 / K, its variance is p (1 - p) sum(1 / n_k) / K^2 with p = 1 / K. This is the variance of a single share of

    N = K^2 / sum(1 / n_k)

people, which is K times the harmonic mean of the n_k. The interval is Wilson's (1927) for N people and p. A result
needs an interval no wider than p +- 0.15 and no wider than p +- p (+-0.05 with 20 sites). This takes 20 people from
each of two groups, 12 of three, 8 of four and 5 of twenty.

A number has the interval of a correlation at 0 by Fisher's z: tanh(z / sqrt(N - 3)). It must be no wider than +-0.3,
above which R^2 reaches 0.09 by chance alone. This takes 44 people.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from eqpool.data.cohort import Cohort
from eqpool.data.preflight.finding import Finding

HELD_OUT = "held_out_people"  # the check with warnings at the top of log and report
_WIDEST = 0.15  # half the interval of a balanced accuracy
_WIDEST_CORRELATION = 0.3
_Z = statistics.NormalDist().inv_cdf(0.975)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The precision that a cohort's held-out people allow for one kind of result.

    Attributes:
      name: name of the label, "sites" or a column.
      people: held-out people in each group, or a single count for a number.
      groups: names of the groups that `people` counts, or () for a number.
      half_width: half-width of the 95% interval at chance, 1 if a group is empty.
      widest: largest acceptable half-width.
      needed: people needed in each group for that half-width, or in total for a number.
    """

    name: str
    people: tuple[int, ...]
    groups: tuple[str, ...]
    half_width: float
    widest: float
    needed: int

    @property
    def is_enough(self) -> bool:
        """Returns whether the interval is narrow enough."""
        return self.half_width <= self.widest

    def describe(self) -> str:
        """Returns a text such as "sites 3 (GE) to 9 (SI) (12 of each needed; 0.33 +- 0.26 by chance)"."""
        if not self.groups:
            return f"{self.name} {self.people[0]} ({self.needed} needed; a correlation of 0 +- {self.half_width:.2f})"
        low, high = int(np.argmin(self.people)), int(np.argmax(self.people))
        ends = f"{self.people[low]} ({self.groups[low]}) to {self.people[high]} ({self.groups[high]})"
        counts = ends if self.people[low] < self.people[high] else f"{self.people[low]} of each"
        chance = f"{1 / len(self.groups):.2g} +- {self.half_width:.2f} by chance"
        return f"{self.name} {counts} ({self.needed} of each needed; {chance})"


def wilson_half_width(people: float, share: float) -> float:
    """Returns the half-width of Wilson's 95% interval of a share of `people`, a positive number, whole or not."""
    spread = math.sqrt(share * (1 - share) / people + _Z**2 / (4 * people**2))
    return _Z * spread / (1 + _Z**2 / people)


def accuracy_half_width(people: Sequence[int]) -> float:
    """Returns the half-width of the 95% interval of a balanced accuracy at chance.

    Args:
      people: number of people in each group.

    Returns:
      The half-width, or 1 if a group is empty.
    """
    if min(people, default=0) < 1:
        return 1.0
    return wilson_half_width(len(people) ** 2 / sum(1 / count for count in people), 1 / len(people))


def widest_accuracy(groups: int) -> float:
    """Returns the largest acceptable `accuracy_half_width` for this number of groups."""
    return min(_WIDEST, 1 / groups)


def fewest_of_each(groups: int) -> int:
    """Returns the fewest people in each of `groups` (at least 2) that narrow a balanced accuracy's interval enough.

    The interval narrows with every person, so the first sufficient count is the answer.
    """
    count = 1
    while accuracy_half_width([count] * groups) > widest_accuracy(groups):
        count += 1
    return count


def correlation_half_width(people: int) -> float:
    """Returns the half-width of the 95% interval of a correlation at 0 by Fisher's z, 1 for three people or fewer."""
    return math.tanh(_Z / math.sqrt(people - 3)) if people > 3 else 1.0


def fewest_of_a_number() -> int:
    """Returns the fewest people that make a correlation's interval narrow enough."""
    return math.ceil(3 + (_Z / math.atanh(_WIDEST_CORRELATION)) ** 2)


def held_out_findings(cohort: Cohort) -> Iterator[Finding]:
    """Reports whether the test split has the people that a result needs."""
    if not np.any(cohort.split == "test"):  # as in the estimator, which holds nobody out
        return
    results = list(examine_held_out(cohort))
    few = [result for result in results if not result.is_enough]
    numbers = {result.name: {"people": list(result.people), "half_width": result.half_width} for result in results}
    describe = HeldOut.describe
    if few:
        message = (
            f"few people are held out, so that most results will stay undecided: {', '.join(map(describe, few))}. Pool "
            "more people, hold more of them out (config.data.test_fraction), or average several splits"
        )
        yield Finding("warning", HELD_OUT, message, {"held_out": numbers})
    elif results:
        message = f"enough people are held out: {', '.join(map(describe, results))}"
        yield Finding("info", HELD_OUT, message, {"held_out": numbers})


def examine_held_out(cohort: Cohort) -> Iterator[HeldOut]:
    """Yields the precision that the test split allows for sites, target, nuisances and numeric covariates."""
    test = cohort.split == "test"
    yield from _groups("sites", cohort, test, cohort.site, cohort.site_names)
    if cohort.target_classes:
        yield from _groups(f"classes of {cohort.target_name}", cohort, test, cohort.target, cohort.target_classes)
    elif cohort.target_name:
        yield _number(cohort.target_name, cohort, test & cohort.target_known)
    for index, name in enumerate(cohort.nuisance_names):
        assert cohort.nuisance is not None
        yield from _groups(f"levels of {name}", cohort, test, cohort.nuisance[:, index], cohort.nuisance_levels[index])
    numbers = [index for index in range(len(cohort.covariate_names)) if len(np.unique(cohort.covariates[:, index])) > 2]
    if numbers:
        yield _number(", ".join(cohort.covariate_names[index] for index in numbers), cohort, test)


def _groups(
    name: str, cohort: Cohort, test: np.ndarray, label: np.ndarray, names: tuple[str, ...]
) -> Iterator[HeldOut]:
    if len(names) < 2:
        return
    people = tuple(len(np.unique(cohort.participant_id[test & (label == index)])) for index in range(len(names)))
    yield HeldOut(
        name, people, names, accuracy_half_width(people), widest_accuracy(len(names)), fewest_of_each(len(names))
    )


def _number(name: str, cohort: Cohort, rows: np.ndarray) -> HeldOut:
    people = len(np.unique(cohort.participant_id[rows]))
    return HeldOut(name, (people,), (), correlation_half_width(people), _WIDEST_CORRELATION, fewest_of_a_number())
