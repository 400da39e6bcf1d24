"""One coding of labels and of numbers, for the text of tables and for arrays and frames in memory.

A label names a site, a class, a category or a level of a nuisance. `to_label` makes text of every form of it:

- a whole number is written without a fraction: 1, 1.0, numpy.int64(1), "1", "1.0" and b"1" are all "1"; other decimals
  lose trailing zeros, so that "1.50" is "1.5"; "01" is a name and stays "01";
- text loses blanks around it and is brought to Unicode's composed form (NFC); bytes are UTF-8, or else Latin-1;
- True and False are "True" and "False";
- dates, complex numbers, infinities and containers are refused.

Missing are None, NaN, pandas.NA, NaT, masked entries, blank text, and the words in `MISSING`, in tables and in arrays
alike. A site may really be called NA, so that `label_notes` names each such word and how often it was found.

A number is a finite one of at most 1e30, in any form: a Python or NumPy number, a bool, or text such as " 61.5 ". A
column is one of numbers if at least half of its different values are, or have a decimal comma, since neither that nor a
typing error must turn a measurement into a category with as many values as there are rows. What is no number in it is
an error.
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
LARGEST_NUMBER = 1e30  # squares and sums of such still are numbers, and float32 holds it
MOST_CLASS_LEVELS = 10
MOST_NAMED = 5

_PLAIN_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_CAPPED = re.compile(r"\d+(\.\d+)?\+")  # BIDS hides high ages: 89+ is 89 or more
_DATES = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64, pd.Period)
_NUMBERS = (numbers.Real, decimal.Decimal, np.bool_)
_BLANKS = "\ufeff\u200b"  # invisible, and no blanks to Python

Where = Callable[[int], str]  # the start of a message about a row


def is_missing(value: Any) -> bool:
    """Returns whether one entry stands for no value; see the head of this file."""
    if isinstance(value, bytes | str):
        return _text(value) in MISSING
    if value is None or value is pd.NA or value is pd.NaT or value is np.ma.masked:
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return _is_real(value) and bool(value != value)


def to_label(value: Any) -> str:
    """Returns one entry as a label, "" where it is missing.

    Raises:
      InputError: a date, a complex number, an infinity or a container.
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
    """Returns one entry as a number, NaN where it is missing, None where it is no finite number of at most 1e30."""
    if is_missing(value):
        return math.nan
    if isinstance(value, bytes | str):
        text = _text(value)
        try:
            number = float(text) if "_" not in text else math.nan  # Python reads 1_000; a table does not mean it
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
      InputError: the first entry that is no label; its message starts with `where` of the row.
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
      InputError: the first entry that is no number; its message starts with `where` of the row.
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
    """Returns the entries with capped ages such as "89+" as the number before the plus, and how many there are."""
    entries = list(values)
    capped = [isinstance(value, bytes | str) and bool(_CAPPED.fullmatch(_text(value))) for value in entries]
    return [_text(v).rstrip("+") if cap else v for v, cap in zip(entries, capped, strict=True)], sum(capped)


def holds_numbers(values: Iterable[Any]) -> bool:
    """Returns whether a column is one of numbers: at least half of its different known values are."""
    known = {value for value in values if not is_missing(value)}
    numeric = sum(to_number(value) is not None or _has_decimal_comma(value) for value in known)
    return 2 * numeric >= len(known)


def is_of_classes(labels: np.ndarray, target_type: str) -> bool:
    """Returns whether a target (N,) of labels is one of classes: under "auto" text, or at most 10 whole numbers."""
    if target_type != "auto":
        return target_type == "classes"
    known = sort_labels(labels)
    found = [to_number(name) for name in known]
    whole = all(number is None or number == round(number) for number in found)
    return (len(known) <= MOST_CLASS_LEVELS and whole) or not holds_numbers(known)


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the different known labels: numbers first, by their size, then text."""
    return tuple(sorted({str(name) for name in labels} - {UNKNOWN}, key=_sorting_key))


def code_labels(
    labels: np.ndarray, names: Sequence[str] | np.ndarray | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns (N,) int32 indices into the names, -1 for a label that is unknown or not among them, and the names.

    Args:
      labels: (N,) by `read_labels`.
      names: of an earlier call; by default all labels, sorted.
    """
    ordered = sort_labels(labels) if names is None else tuple(str(name) for name in names)
    index = {name: position for position, name in enumerate(ordered)}
    return np.array([index.get(str(name), -1) for name in labels], np.int32), ordered


def indicators(codes: np.ndarray, levels: int) -> np.ndarray:
    """Returns (N, levels - 1) float64 columns of 0 and 1, one a level but the first; NaN where the code is -1."""
    columns = (codes[:, None] == np.arange(1, levels)[None]).astype(np.float64)
    return np.where(codes[:, None] < 0, np.nan, columns)


def label_notes(texts: Mapping[str, int], name: str) -> list[str]:
    """Returns lines on a column of labels: words that were read as missing, and spellings that were read as one label.

    Args:
      texts: how often each text stands there; "" and "n/a" are missing without a word.
      name: of the column.
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
    """Returns how often each text stands among the entries, without blanks around; what is no text is left out."""
    return dict(collections.Counter(_text(value) for value in values if isinstance(value, bytes | str)))


def check_seen(labels: np.ndarray, levels: Sequence[str], column: str, names: Any) -> None:
    """Checks that every label is known from training.

    Args:
      labels: (N,); unknown ones pass.
      levels: that training saw.
      column: what the message starts with.
      names: (N,) names of the rows, for the message.

    Raises:
      InputError: naming the first level that is new, its rows and the levels that training saw.
    """
    new = [name for name in sort_labels(labels) if name not in levels]
    if new:
        rows = [str(names[row]) for row in np.flatnonzero(labels == new[0])]
        listed = ", ".join(rows[:MOST_NAMED]) + (", ..." if len(rows) > MOST_NAMED else "")
        raise InputError(
            f'{column}: "{new[0]}" in {len(rows)} rows ({listed}), expected one of {", ".join(levels)} as in training'
        )


def same_labels(names: Iterable[Any], what: str) -> tuple[str, ...]:
    """Returns stored names by today's coding, for a model of an earlier version, which kept 1 and 1.0 apart.

    Raises:
      InputError: two of them are one label today.
    """
    given = [str(name) for name in names]
    labels = [to_label(name) or name for name in given]
    for place, label in enumerate(labels):
        if label in labels[:place]:
            other = given[labels.index(label)]
            raise InputError(f"{what}: {other} and {given[place]} are one label, {label}, now; train the model again")
    return tuple(labels)


def _has_decimal_comma(value: Any) -> bool:
    return isinstance(value, str) and bool(_DECIMAL_COMMA.fullmatch(value))


def _is_real(value: Any) -> bool:
    """Whether it is a real number; NumPy counts time differences among the whole ones."""
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
    """ "1.0" as "1" and "1.50" as "1.5"; any other text as it is."""
    if not _PLAIN_NUMBER.fullmatch(text):
        return text
    whole, _, fraction = text.partition(".")
    whole, fraction = {"": "0", "-": "-0"}.get(whole, whole), fraction.rstrip("0")
    plain = f"{whole}.{fraction}" if fraction else whole
    return "0" if plain == "-0" else plain


def _numbers_of_a_numeric_column(values: Any) -> np.ndarray | None:
    """(N,) float64 of a column whose dtype is one of real numbers or bools; None of any other."""
    if isinstance(values, pd.Series):
        is_real = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_complex_dtype(values.dtype)
        return values.to_numpy(np.float64, na_value=np.nan) if is_real else None
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return values.astype(np.float64)
    return None


def _sorting_key(name: str) -> tuple[bool, float, str]:
    number = to_number(name)
    return (number is None, number or 0.0, name)


def _shown(value: Any) -> Any:
    return _text(value) if isinstance(value, bytes) else value
