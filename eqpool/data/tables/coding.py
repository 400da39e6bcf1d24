"""Defines how labels and numbers are read, for the text of tables and for arrays and frames in memory.

A label names a site, a class, a category or a level of a nuisance. `to_label` converts every form of a label to text:

- A whole number is written without a fraction: 1, 1.0, numpy.int64(1), "1", "1.0" and b"1" are all "1". Other decimals
  lose trailing zeros, so "1.50" is "1.5". "01" is a name and stays "01".
- Text is stripped of surrounding blanks and normalised to Unicode's composed form (NFC). Bytes are decoded as UTF-8,
  or as Latin-1 if that fails.
- True and False are "True" and "False".
- Dates, complex numbers, infinities and containers are refused.

None, NaN, pandas.NA, NaT, masked entries, blank text and the words in `MISSING` are missing values, in tables and in
arrays alike. Because a site may really be called NA, `label_notes` reports each such word and its count.

A number is finite and at most 1e30 in size, in any form: a Python or NumPy number, a bool, or text such as " 61.5 ".
A column holds numbers if at least half of its distinct values are numbers or have a decimal comma. This rule keeps a
decimal comma or a typing error from turning a measurement into a category with as many levels as rows. Entries of such
a column that are not numbers are errors.
"""

import collections
import datetime
import decimal
import math
import numbers
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from eqpool.errors import InputError

UNKNOWN = ""
# BIDS writes n/a; the others are written by R, pandas, spreadsheets and databases.
MISSING = frozenset(
    {"", "n/a", "N/A", "NA", "nan", "NaN", "NAN", "<NA>", "NaT", "#N/A", "null", "NULL", "<null>", "<NULL>"}
)
LARGEST_NUMBER = 1e30  # float32 can hold it, and in float64 its squares and their sums stay finite

_PLAIN_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_CAPPED = re.compile(r"\d+(\.\d+)?\+")  # BIDS hides high ages: 89+ is 89 or more
_DATES = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64, pd.Period)
_NUMBERS = (numbers.Real, decimal.Decimal, np.bool_)
_BLANKS = "\ufeff\u200b"  # invisible characters that str.strip does not remove

Where = Callable[[int], str]  # the start of a message about a row


def is_missing(value: Any) -> bool:
    """Returns whether an entry is a missing value, by the rules in this module's docstring."""
    if isinstance(value, bytes | str):
        return _text(value) in MISSING
    if value is None or value is pd.NA or value is pd.NaT or value is np.ma.masked:
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return _is_real(value) and bool(value != value)


def to_label(value: Any) -> str:
    """Returns an entry as a label, "" if it is missing.

    Raises:
      InputError: the entry is a date, a complex number, an infinity or a container.
    """
    if is_missing(value):
        return UNKNOWN
    if isinstance(value, bytes | str):
        return _plain_decimal(_text(value))
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if _is_real(value):
        if not math.isfinite(value):
            raise InputError(f"{value}, expected a name or a finite number")
        whole = math.floor(value)
        return str(whole) if value == whole else _plain_decimal(str(value))
    if isinstance(value, _DATES):
        raise InputError(f"{value} is a date or a time, expected a name or a number")
    if isinstance(value, complex | np.complexfloating):
        raise InputError(f"{value} is a complex number, expected a name or a number")
    if isinstance(value, Iterable | Mapping):
        raise InputError(f"{value!r} is a {type(value).__name__}, expected a name or a number")
    return _plain_decimal(_text(str(value)))


def to_number(value: Any) -> float | None:
    """Returns an entry as a number: NaN if it is missing, None if it is not a finite number of at most 1e30 in size."""
    if is_missing(value):
        return math.nan
    if isinstance(value, bytes | str):
        text = _text(value)
        try:
            number = float(text) if "_" not in text else math.nan  # Python would read 1_000 as a number
        except ValueError:
            return None
    elif _is_real(value):
        number = float(value)
    else:
        return None
    return number if abs(number) <= LARGEST_NUMBER else None


def read_labels(values: Sequence[Any] | np.ndarray | pd.Series, where: Where) -> np.ndarray:
    """Returns N entries as (N,) str labels, "" where missing.

    Raises:
      InputError: an entry is not a label. The message starts with `where(row)` of the first such entry.
    """
    labels = []
    for row, value in enumerate(values):
        try:
            labels.append(to_label(value))
        except InputError as error:
            raise InputError(f"{where(row)}: {error}") from None
    return np.array(labels, dtype=np.str_)


def read_numbers(values: Sequence[Any] | np.ndarray | pd.Series, where: Where) -> np.ndarray:
    """Returns N entries as (N,) float64, NaN where missing.

    Raises:
      InputError: an entry is not a number. The message starts with `where(row)` of the first such entry.
    """
    found = _numbers_of_a_numeric_column(values)
    if found is None:
        read = [to_number(value) for value in values]
        found = np.array([math.inf if number is None else number for number in read], np.float64)
    bad = np.flatnonzero(np.abs(found) > LARGEST_NUMBER)  # a NaN is not larger
    if bad.size:
        row = int(bad[0])
        value = values.iloc[row] if isinstance(values, pd.Series) else values[row]
        raise InputError(f'{where(row)}: "{_shown(value)}", expected a number or n/a')
    return found


def without_caps(values: Sequence[Any] | np.ndarray | pd.Series) -> tuple[list[Any], int]:
    """Returns the entries with capped ages such as "89+" replaced by the number before the plus, and their count."""
    entries = list(values)
    capped = [isinstance(value, bytes | str) and bool(_CAPPED.fullmatch(_text(value))) for value in entries]
    return [_text(v).rstrip("+") if cap else v for v, cap in zip(entries, capped, strict=True)], sum(capped)


def holds_numbers(values: Iterable[Any]) -> bool:
    """Returns whether a column holds numbers: at least half of its distinct known values are numbers.

    A value with a decimal comma counts as a number here.
    """
    known = {value for value in values if not is_missing(value)}
    numeric = sum(to_number(value) is not None or _has_decimal_comma(value) for value in known)
    return 2 * numeric >= len(known)


def label_notes(texts: Mapping[str, int], name: str) -> list[str]:
    """Returns lines on a column of labels: words that were read as missing, and spellings that were read as one label.

    Args:
      texts: count of each text in the column. The missing values "" and "n/a" are not reported.
      name: name of the column.
    """
    words = [f'"{text}" ({count})' for text, count in texts.items() if text in MISSING - {UNKNOWN, "n/a"}]
    notes = [f"{name}: {', '.join(words)} read as missing; a level of that name needs another one"] if words else []
    spellings = collections.defaultdict(list)
    for text in texts:
        spellings[to_label(text)].append(text)
    for label, same in spellings.items():
        if label and len(same) > 1:
            notes.append(f"{name}: {' and '.join(map(repr, sorted(same)))} are read as one label, {label}")
    return notes


def count_texts(values: Iterable[Any]) -> dict[str, int]:
    """Returns the count of each stripped text among the entries. Entries that are not text are skipped."""
    return dict(collections.Counter(_text(value) for value in values if isinstance(value, bytes | str)))


def _has_decimal_comma(value: Any) -> bool:
    return isinstance(value, str) and bool(_DECIMAL_COMMA.fullmatch(value))


def _is_real(value: Any) -> bool:
    """Returns whether a value is a real number. NumPy's time differences, which it counts as integers, are not."""
    return isinstance(value, _NUMBERS) and not isinstance(value, np.timedelta64)


def _text(value: bytes | str) -> str:
    if isinstance(value, str):
        text = value
    else:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
    text = text.strip().strip(_BLANKS).strip()
    return str(text) if text.isascii() else unicodedata.normalize("NFC", text)


def _plain_decimal(text: str) -> str:
    """Writes "1.0" as "1" and "1.50" as "1.5", and returns other text unchanged."""
    if not _PLAIN_NUMBER.fullmatch(text):
        return text
    whole, _, fraction = text.partition(".")
    whole, fraction = {"": "0", "-": "-0"}.get(whole, whole), fraction.rstrip("0")
    plain = f"{whole}.{fraction}" if fraction else whole
    return "0" if plain == "-0" else plain


def _numbers_of_a_numeric_column(values: Any) -> np.ndarray | None:
    """Returns a column whose dtype is real or bool as (N,) float64, and None for any other dtype."""
    if isinstance(values, pd.Series):
        is_real = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_complex_dtype(values.dtype)
        return values.to_numpy(np.float64, na_value=np.nan) if is_real else None
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return values.astype(np.float64)
    return None


def _shown(value: Any) -> Any:
    return _text(value) if isinstance(value, bytes) else value
