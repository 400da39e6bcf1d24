"""Labels and numbers in every form that tables, arrays and frames give them."""

import datetime
import decimal
import fractions

import numpy as np
import pandas as pd
import pytest

from eqpool.data.tables.coding import (
    holds_numbers,
    is_missing,
    label_notes,
    read_labels,
    read_numbers,
    to_label,
    to_number,
)
from eqpool.data.tables.levels import check_seen, code_labels, indicators, same_labels, sort_labels
from eqpool.errors import InputError


@pytest.mark.parametrize(
    ("label", "forms"),
    [
        ("1", [1, 1.0, np.int8(1), np.uint64(1), np.float16(1), "1", "1.0", "1.", " 1 ", b"1", np.bytes_(b"1.00"),
               np.str_("1"), decimal.Decimal("1.0"), fractions.Fraction(2, 2), "\t1\n", "\ufeff1", "1\u00a0"]),
        ("0", [0, -0.0, "0", "-0", "0.0", "-0.00", np.float32(0)]),
        ("-3", [-3, -3.0, "-3.0"]),
        ("1.5", [1.5, np.float32(1.5), "1.50", ".5".replace(".", "1."), decimal.Decimal("1.5")]),
        ("0.5", [0.5, ".5", "0.50"]),
        ("0.1", [0.1, np.float32(0.1), "0.1"]),
        ("12345678901234567890", [12345678901234567890, "12345678901234567890.0"]),
        ("True", [True, np.True_, "True"]),
        ("GE", ["GE", " GE", "GE ", b"GE", np.bytes_("GE"), np.str_("GE")]),
        ("Zürich", ["Zürich", "Zu\u0308rich", "Zürich".encode(), "Zürich".encode("latin-1")]),
        ("01", ["01", b"01", " 01"]),  # a name, as of a ward, and no number
        ("1e3", ["1e3"]),
        ("None", ["None"]),
    ],
)  # fmt: skip
def test_one_label_of_every_form(label, forms):
    assert {to_label(form) for form in forms} == {label}


@pytest.mark.parametrize(
    "value",
    [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), np.ma.masked, "", "  ", b"", "n/a",
     "NA", "nan", b"NaN", "<NA>", decimal.Decimal("nan"), "\u00a0"],
)  # fmt: skip
def test_what_is_missing(value):
    assert is_missing(value) and to_label(value) == "" and np.isnan(to_number(value))


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "None", "no", "N", "na", -1, "A"])
def test_what_is_not_missing(value):
    assert not is_missing(value) and to_label(value)


@pytest.mark.parametrize(
    "value",
    [1 + 2j, np.complex64(1), datetime.date(2020, 1, 1), datetime.timedelta(1), np.datetime64("2020-01-01"),
     pd.Timestamp("2020-01-01"), np.timedelta64(1, "D"), pd.Period("2020-01"), ["A"], ("A", "B"), {"a": 1}, {1},
     np.array([1, 2]), float("inf"), np.float32("-inf")],
)  # fmt: skip
def test_what_is_no_label(value):
    with pytest.raises(InputError, match="expected a name or a"):
        to_label(value)
    with pytest.raises(InputError, match="^site, row 1: "):
        read_labels(["A", value], lambda row: f"site, row {row}")


@pytest.mark.parametrize(
    ("value", "number"),
    [("61.5", 61.5), (" 61.5 ", 61.5), (b"61.5", 61.5), (np.str_("7"), 7), (True, 1), (np.float16(0.5), 0.5),
     (decimal.Decimal("0.25"), 0.25), ("-1e3", -1000), (1e30, 1e30), (np.uint8(200), 200)],
)  # fmt: skip
def test_numbers_of_every_form(value, number):
    assert to_number(value) == number


@pytest.mark.parametrize(
    "value", ["1_000", "2,5", "89+", "inf", "-inf", float("inf"), 1e31, "1e31", 1j, pd.Timestamp(0), [1], "0x10", "A"]
)
def test_what_is_no_number(value):
    assert to_number(value) is None


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([1, None, 3], dtype="float32"),
        pd.Series([1, None, "3"], dtype=object),
        pd.Series(["1.0", "NA", " 3"]),
        pd.Series(["1", None, "3"], dtype="string"),
        np.array([b"1", b"", b"3"]),
        np.array(["1", "nan", "3"]),
        [1, float("nan"), np.float64(3)],
    ],
    ids=str,
)
def test_a_column_of_numbers(column):
    np.testing.assert_array_equal(read_numbers(column, str), [1, np.nan, 3])


def test_a_column_with_what_is_no_number_names_the_row():
    for column in (["1", "2,5"], np.array([1.0, np.inf]), pd.Series([1.0, 1e31], index=[7, 8])):
        with pytest.raises(InputError, match=r'row 1: ".*", expected a number'):
            read_numbers(column, lambda row: f"row {row}")
    for column in (pd.to_datetime(pd.Series(["2020-01-01", "2021-01-01"])), np.array([1 + 1j, 2])):
        with pytest.raises(InputError, match="row 0: "):
            read_numbers(column, lambda row: f"row {row}")


def test_half_of_the_different_values_make_a_column_of_numbers():
    assert holds_numbers(["1", "2", "x"]) and holds_numbers(["1", "x"]) and not holds_numbers(["1", "x", "y"])
    assert not holds_numbers(["x", "1", "y", "1", "1"]) and holds_numbers(["", "1"])
    assert holds_numbers(["2,5", "3,25", "1"]) and not holds_numbers(["a,5", "1,000,000", "b"])


def test_labels_sort_as_numbers_and_have_indices():
    labels = np.array(["10", "9", "", "b", "A", "10"])
    assert sort_labels(labels) == ("9", "10", "A", "b")
    codes, names = code_labels(labels)
    assert codes.tolist() == [1, 0, -1, 3, 2, 1] and names == ("9", "10", "A", "b")
    assert code_labels(labels, np.array(["b", "9"]))[0].tolist() == [-1, 1, -1, 0, -1, -1]
    np.testing.assert_array_equal(indicators(np.array([0, 1, 2, -1]), 3), [[0, 0], [1, 0], [0, 1], [np.nan, np.nan]])


def test_what_was_read_as_missing_or_as_one_is_noted():
    notes = label_notes({"A": 4, "NA": 3, "nan": 1, "n/a": 9, "": 2, "1": 1, "1.0": 2}, "site")
    assert notes == [
        'site: "NA" (3), "nan" (1) read as missing; a level of that name needs another one',
        "site: '1' and '1.0' are read as one label, 1",
    ]
    assert label_notes({"A": 1, "n/a": 2, "": 3}, "site") == []


def test_levels_that_training_did_not_see():
    labels = np.array(["F", "", "male", "m", "male"])
    with pytest.raises(InputError, match=r'^sex: "m" in 1 rows \(d\), expected one of F, M as in training$'):
        check_seen(labels, ("F", "M"), "sex", list("abcde"))
    check_seen(labels[:2], ("F", "M"), "sex", list("ab"))


def test_stored_names_of_earlier_versions():
    assert same_labels(["1.0", "GE ", "n/a"], "sites") == ("1", "GE", "n/a")
    with pytest.raises(InputError, match="sites: 1 and 1.0 are one label, 1, now; train the model again"):
        same_labels(["0", "1", "1.0"], "sites")
