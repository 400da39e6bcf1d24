"""Harmonised features of a table in their own units, with an option to keep their sign."""

import numpy as np
import pandas as pd

from eqpool.data.tables.encoding import FeatureEncoding, NumberColumn
from eqpool.data.tables.participants import ID_COLUMN, ParticipantsTable, parse_numbers
from eqpool.methods.base import Say
from eqpool.storage.files import write_json, write_table
from eqpool.storage.run_folder import RunFolder


def feature_frame(table: ParticipantsTable, encoding: FeatureEncoding, say: Say) -> pd.DataFrame:
    """Returns the N rows' features, and reports through `say` the columns with missing values.

    Raises:
      InputError: a column is missing, a value is no number, or a category is not among those of the training rows.
    """
    columns = {}
    for column in encoding.columns:
        table.require(column.name, "a feature of the run")
        is_number = isinstance(column, NumberColumn)
        columns[column.name] = (
            parse_numbers(table, column.name) if is_number else table.names_in(column.name).astype(object)
        )
    frame = pd.DataFrame(columns)
    encoding.check_categories(frame, table.frame[ID_COLUMN].tolist())
    for note in encoding.unlike_training(frame):
        say(note)
    return frame


def harmonised_features(
    frame: pd.DataFrame, encoding: FeatureEncoding, change: np.ndarray, keep_sign: bool
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Returns all feature columns in their own units, and the number of clipped values by column.

    Numbers receive their change. Constant columns, failed and missing values, and categories stay unchanged.

    Args:
      frame: N rows of features. Numbers are float64, NaN if missing.
      encoding: encoding of the features.
      change: (N, F) change of the encoded features, in z-scores.
      keep_sign: whether values below 0 become 0 in columns without negative training values.
    """
    place = {name: index for index, name in enumerate(encoding.input_names)}
    numbers = [column.name for column in encoding.numbers]
    if not numbers:
        return frame, {}
    scaling = encoding.scaling
    values = scaling.with_change(frame[numbers].to_numpy(np.float64), change[:, [place[name] for name in numbers]])
    clipped = np.zeros(len(numbers), np.int64)
    if keep_sign:
        values, clipped = scaling.clipped(values)
    counts = {name: int(count) for name, count in zip(numbers, clipped, strict=True) if count}
    return frame.assign(**dict(zip(numbers, values.T, strict=True))), counts


def write_harmonised_table(
    output: RunFolder,
    rows: pd.DataFrame,
    frame: pd.DataFrame,
    encoding: FeatureEncoding,
    change: np.ndarray,
    keep_sign: bool,
    say: Say,
) -> None:
    """Writes harmonised.tsv, and harmonised.json with `keep_sign` and the numbers of clipped values.

    The arguments are those of `harmonised_features`. `rows` has participant_id, and the session if there are any.
    """
    values, clipped = harmonised_features(frame, encoding, change, keep_sign)
    failed = encoding.scaling.failed(frame[[column.name for column in encoding.numbers]].to_numpy(np.float64))
    if failed.any():
        columns = np.array([column.name for column in encoding.numbers], object)[failed.any(axis=0)]
        say(f"{failed.sum()} values that are 0 where they should be positive stay as they are: {', '.join(columns)}")
    write_table(output.harmonised_file, rows.reset_index(drop=True).join(values.reset_index(drop=True)), missing="n/a")
    write_json(output.harmonised_facts_file, {"keep_sign": keep_sign, "clipped": clipped})
    if clipped:
        named = ", ".join(f"{name} {count}" for name, count in clipped.items())
        say(f"{sum(clipped.values())} harmonised values below 0 are set to 0 (output.keep_sign): {named}")
