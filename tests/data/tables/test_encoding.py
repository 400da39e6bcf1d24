import json

import numpy as np
import pandas as pd

from eqpool.data.tables.encoding import FeatureEncoding, fit_encoding

FRAME = pd.DataFrame(
    {
        "length": [1.0, 3.0, 5.0, np.nan, 100.0],
        "colour": ["red", "blue", "?", "red", "green"],
        "constant": [0.1 + 0.2] * 4 + [7.0],
    }
)
TRAINING = np.arange(4)


def test_values_by_hand():
    encoding = fit_encoding(FRAME, TRAINING)
    assert encoding.input_names == ("length", "colour=?", "colour=blue", "colour=red", "constant")
    deviation = np.sqrt(8 / 3)
    expected = np.array(
        [
            [-2 / deviation, 0, 0, 1, 0],
            [0, 0, 1, 0, 0],
            [2 / deviation, 1, 0, 0, 0],
            [0, 0, 0, 1, 0],
            [97 / deviation, 0, 0, 0, 6.7],
        ]
    )
    np.testing.assert_allclose(encoding.apply(FRAME), expected, atol=1e-6)


def test_only_training_rows_are_looked_at():
    changed = FRAME.copy()
    changed.loc[4, ["length", "colour"]] = [-1e9, "violet"]
    assert fit_encoding(changed, TRAINING) == fit_encoding(FRAME, TRAINING)


def test_through_json():
    encoding = fit_encoding(FRAME, TRAINING)
    assert FeatureEncoding.from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding


def test_a_column_without_any_number_becomes_zero():
    frame = pd.DataFrame({"empty": [np.nan, np.nan]})
    np.testing.assert_array_equal(fit_encoding(frame, np.arange(2)).apply(frame), np.zeros((2, 1)))
