import csv

import pytest

from eqpool.config.names import split_names
from eqpool.errors import InputError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        (" , ,", ()),
        ("age, sex", ("age", "sex")),
        ("age,,sex,", ("age", "sex")),
        ('"left, mm",age', ("left, mm", "age")),
        ('age, "a:b" , "say ""x"", y"', ("age", "a:b", 'say "x", y')),
        ('5" disk,age', ('5" disk', "age")),  # a quote counts only at the start
        ('"vol_*, mm"', ("vol_*, mm",)),
    ],
)
def test_names(text, names):
    assert split_names(text) == names
    by_csv = next(csv.reader([text], skipinitialspace=True), [])
    assert tuple(name.strip() for name in by_csv if name.strip()) == names


@pytest.mark.parametrize(("text", "problem"), [('"a,b', "is not closed"), ('"a"b,c', "expected a comma")])
def test_bad_quotes(text, problem):
    with pytest.raises(InputError, match=problem):
        split_names(text)
