"""Values of a measurement that stand for something else, such as an age of -999 where it is missing."""

from typing import NamedTuple

import numpy as np

_CODE_GAP = 1.0  # robust deviations between a code and the other values
_DIGIT_GAP = 3.0  # the same for a code of a single digit, such as a 9 among 1 and 2
_FAR, _FAR_GAP = 10.0, 5.0  # from the median, and from the values that are not far


class Implausible(NamedTuple):
    """One value that no measurement seems to have made.

    Attributes:
      value: it.
      rows: (R,) int64, the rows that have it.
      is_code: whether it looks like a code for "missing"; else it is an outlier.
      distance: from the median, in robust deviations.
    """

    value: float
    rows: np.ndarray
    is_code: bool
    distance: float


def implausible_values(values: np.ndarray) -> list[Implausible]:
    """Finds codes for "missing" and far outliers among (N,) numbers; NaN is left out.

    The robust deviation is 1.4826 times the median absolute deviation of the values that could not be codes. A value is

    - a code if it repeats one digit (-9, -999, 99, 888, 9999, 99.9) and is negative where no other value is, or repeats
      7, 8 or 9 and lies outside the range of the others, by more than one robust deviation, or three for one digit; the
      same holds for -1 to -6 and for 0, the lowest value, beyond one robust deviation;
    - an outlier if it lies more than 10 robust deviations from the median and more than 5 from the values that do not.

    Columns of two values, such as sex as 0 and 1, have neither.
    """
    known = np.flatnonzero(np.isfinite(values))
    different, counts = np.unique(values[known], return_counts=True)
    suspected = np.array([_repeats_a_digit(value) for value in different], bool)
    if different.size > 3 and different[0] == 0:
        suspected[0] = True
    others = np.repeat(different[~suspected], counts[~suspected])
    spread = _robust_deviation(others) if len(different) > 2 and others.size else 0.0
    if spread == 0:
        return []
    distance = np.abs(different - np.median(others)) / spread
    inner = different[~suspected & (distance <= _FAR)]
    found = []
    for value, how_far, may_be_code in zip(different, distance, suspected, strict=True):
        gap = max(inner[0] - value, value - inner[-1]) / spread
        is_code = bool(may_be_code) and gap > _gap_of_code(value, bool((others >= 0).all()))
        if is_code or (how_far > _FAR and gap > _FAR_GAP):
            found.append(Implausible(float(value), known[values[known] == value], is_code, float(how_far)))
    return found


def _gap_of_code(value: float, others_are_positive: bool) -> float:
    """Robust deviations that a code lies outside the other values by, at least."""
    digits = _digits(value)
    if value < 0 and others_are_positive:
        return 0.0 if digits[0] in "789" or len(digits) > 1 else _CODE_GAP
    return _DIGIT_GAP if len(digits) == 1 and value != 0 else _CODE_GAP


def _repeats_a_digit(value: float) -> bool:
    digits = _digits(value)
    return len(set(digits)) == 1 and (digits[0] in "789" or (value < 0 and digits[0] in "123456"))


def _digits(value: float) -> str:
    """ "999" of -999 and of 99.9; "" of what is written with an exponent."""
    text = f"{abs(value):.15g}"
    return "" if "e" in text else text.replace(".", "")


def _robust_deviation(values: np.ndarray) -> float:
    distances = np.abs(values - np.median(values))
    return float(1.4826 * np.median(distances)) or float(1.2533 * distances.mean())
