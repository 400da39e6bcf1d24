import numpy as np
import pandas as pd
import pytest

from eqpool.data.tables.arrays import as_names, encode_covariates, fit_covariates
from eqpool.data.tables.covariate_coding import CovariateCoding
from eqpool.data.tables.targets import TargetCoding
from eqpool.errors import InputError


def test_names():
    given = np.array(["GE", None, np.nan, 3, "n/a"], object)
    assert as_names(given, 5, "site").tolist() == ["GE", "", "", "3", ""]
    assert as_names(pd.Series([1.0, 2.0]), 2, "site").tolist() == ["1", "2"]


def test_covariates_of_every_form():
    for given in (np.array([1.0, 2.0]), [[1.0], [2.0]], pd.Series([1, 2], name="age")):
        coding = fit_covariates(given, 2)
        np.testing.assert_array_equal(encode_covariates(coding, given, 2), [[1], [2]])
    assert coding.names == ("age",)
    frame = pd.DataFrame({"sex": ["M", "F", "M"], "age": [3.0, 4, 5]})
    coding = fit_covariates(frame, 3)
    assert coding.names == ("sex=M", "age")
    np.testing.assert_array_equal(encode_covariates(coding, frame, 3), [[1, 3], [0, 4], [1, 5]])
    restored = CovariateCoding.from_names(coding.names)
    again = encode_covariates(restored, frame[["age", "sex"]].iloc[[0]], 1)  # one level alone, columns in another order
    np.testing.assert_array_equal(again, [[1, 3]])
    with pytest.raises(InputError, match="covariates are age, expected sex=M, age as in fit"):
        encode_covariates(restored, frame[["age"]], 3)


@pytest.mark.parametrize(
    ("y", "kind"),
    [
        (["ill", "well", None], "classes"),
        ([0, 1, 1], "classes"),
        ([0.5, 1.5, np.nan], "number"),
        (np.arange(30), "number"),
        ([True, False, True], "classes"),
    ],
)
def test_what_a_target_is(y, kind):
    assert TargetCoding.fit(y, "auto").kind == kind


def test_classes_there_and_back():
    coding = TargetCoding.fit(["well", None, "ill"], "auto")
    encoded, known = coding.encode(["well", None, "ill"], 3)
    np.testing.assert_array_equal(encoded, [1, 0, 0])
    np.testing.assert_array_equal(known, [1, 0, 1])
    np.testing.assert_array_equal(coding.columns(encoded, known), [[1], [np.nan], [0]])
    assert coding.decode(np.array([[0.0, 1.0], [2.0, 1.0]])).tolist() == ["well", "ill"]


def test_numbers_there_and_back():
    coding = TargetCoding.fit([1.5, 2.0, np.nan, 4.0], "number")
    encoded, known = coding.encode([1.5, 2.0, np.nan, 4.0], 4)
    assert encoded[known > 0].mean() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(coding.decode(encoded[:, None])[known > 0], [1.5, 2.0, 4.0], rtol=1e-6)
    with pytest.raises(InputError, match='y: "ill", expected numbers'):
        TargetCoding.fit(["ill"], "number")
