"""Finds faults of a table's features: missing and failed values, uninformative columns and repeated rows."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from eqpool.data.preflight.finding import Finding
from eqpool.data.preflight.sentinels import implausible_values
from eqpool.errors import listed

_NEARLY_EMPTY = 0.05  # share of rows that hold a value other than 0


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


def failed_values(frame: pd.DataFrame) -> pd.Series:
    """Counts the values that are exactly 0 in each numeric column with over 95% of its known values positive."""
    numbers = frame.select_dtypes("float64")
    known = numbers.notna().sum()
    positive = (numbers > 0).sum() > 0.95 * known
    return (numbers == 0).sum()[positive & (known > 0)]


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
            f"{len(some)} of {shares.size} features have missing values, up to {some[worst]:.1%} ({worst}). A "
            "fit reads them as the training mean",
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
            f"{len(zero)} features are 0 in all rows ({listed(zero)}). They hold no information and come back as they "
            "are. Leave them out",
            {"columns": zero, "share": 0.0},
        )
    few = {str(name): float(share) for name, share in shares.items() if 0 < share <= _NEARLY_EMPTY}
    if few:
        named = listed([f"{name} {share:.1%}" for name, share in few.items()])
        yield Finding(
            "warning",
            "nearly_empty_features",
            f"{len(few)} features are missing or 0 in nearly all rows (other values: {named}). A few rows set their "
            "scale. Leave them out",
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
                    f"feature {name}: {value:g} in {len(rows)} rows ({listed(who)}) looks like a code for a missing "
                    "value: write n/a for it",
                    {"column": str(name), "value": value, "rows": who},
                )


def _failed(frame: pd.DataFrame) -> Iterator[Finding]:
    zeros = failed_values(frame)
    failed = {str(name): int(count) for name, count in zeros.items() if count}
    if failed:
        named = listed([f"{name} {count}" for name, count in failed.items()])
        yield Finding(
            "warning",
            "failed_measurements",
            f"{sum(failed.values())} values are 0 in columns that are positive elsewhere ({named}). They look like "
            "failed measurements: write n/a for them",
            {"zeros": failed},
        )


def _constant(frame: pd.DataFrame) -> Iterator[Finding]:
    constant = [str(name) for name in frame.columns if frame[name].nunique() == 1 and not (frame[name] == 0).any()]
    if constant:
        yield Finding(
            "warning",
            "constant_features",
            f"{len(constant)} features have one value in all rows ({listed(constant)}). They hold no information",
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
            f"{rows.size} rows have the features of an earlier row, such as {names[rows[0]]} those of {names[first]}. "
            "Remove them, because a scan in two splits makes every score too good",
            {"rows": [str(name) for name in names[rows]]},
        )
