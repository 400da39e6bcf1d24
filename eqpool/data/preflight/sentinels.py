"""Finds values that stand for something else, such as an age of -999 for a missing one, and far outliers."""

from typing import NamedTuple

import numpy as np

_CODE_GAP = 1.0  # least distance in robust deviations between a code and the other values
_DIGIT_GAP = 3.0  # the same for a code of a single digit, such as a 9 among 1 and 2
_FAR, _FAR_GAP = 10.0, 5.0  # least distances of an outlier from the median, and from the values that are not far


def _repeated_digits() -> list[float]:
    """Returns -1 to -999999 of any digit, 7 to 999999 of 7, 8 and 9, and these with a decimal point, such as 99.9."""
    codes = []
    for digit in "123456789":
        for count in range(1, 7):
            for places in range(count if count > 2 else 1):
                value = int(digit * count) / 10**places
                codes += [-value, value] if digit in "789" else [-value]
    return codes


_CODES = np.array(sorted(_repeated_digits()))


class Implausible(NamedTuple):
    """A value that is unlikely to be a measurement.

    Attributes:
      value: implausible value.
      rows: (R,) int64 indices of the rows with this value.
      is_code: whether the value looks like a code for "missing" rather than an outlier.
      distance: distance from the median in robust deviations.
    """

    value: float
    rows: np.ndarray
    is_code: bool
    distance: float


def implausible_values(values: np.ndarray) -> list[Implausible]:
    """Finds codes for "missing" and far outliers among (N,) numbers. NaN is ignored.

    The robust deviation is 1.4826 times the median absolute deviation of the values that cannot be codes.

    - A code repeats one digit (-9, -999, 99, 888, 9999, 99.9). It is negative while no other value is, or it repeats 7,
      8 or 9 and lies outside the range of the others, by more than one robust deviation, or by three if it has a single
      digit. Values of -1 to -6, and 0 as the lowest value, must also lie more than one robust deviation outside.
    - An outlier lies more than 10 robust deviations from the median and more than 5 from the values that do not.

    Columns of two values, such as sex as 0 and 1, have neither.
    """
    known = np.flatnonzero(np.isfinite(values))
    different, counts = np.unique(values[known], return_counts=True)
    suspected = np.isin(different, _CODES)
    if different.size > 3 and different[0] == 0:
        suspected[0] = True
    others = np.repeat(different[~suspected], counts[~suspected])
    spread = _robust_deviation(others) if len(different) > 2 and others.size else 0.0
    if spread == 0:
        return []
    distance = np.abs(different - np.median(others)) / spread
    inner = different[~suspected & (distance <= _FAR)]
    gap = np.maximum(inner[0] - different, different - inner[-1]) / spread
    outlier = (distance > _FAR) & (gap > _FAR_GAP)
    found = []
    for place in np.flatnonzero(outlier | (suspected & (gap > 0))):
        value, positive = float(different[place]), bool((others >= 0).all())
        is_code = bool(suspected[place]) and gap[place] > _gap_of_code(value, positive)
        if is_code or outlier[place]:
            found.append(Implausible(value, known[values[known] == value], is_code, float(distance[place])))
    return found


def _gap_of_code(value: float, others_are_positive: bool) -> float:
    """Returns the least distance, in robust deviations, of a code from the range of the other values."""
    digits = _digits(value)
    if value < 0 and others_are_positive:
        return 0.0 if digits[0] in "789" or len(digits) > 1 else _CODE_GAP
    return _DIGIT_GAP if len(digits) == 1 and value != 0 else _CODE_GAP


def _digits(value: float) -> str:
    """Returns "999" for -999 and for 99.9, and "" for a number that is written with an exponent."""
    text = f"{abs(value):.15g}"
    return "" if "e" in text else text.replace(".", "")


def _robust_deviation(values: np.ndarray) -> float:
    distances = np.abs(values - np.median(values))
    return float(1.4826 * np.median(distances)) or float(1.2533 * distances.mean())
