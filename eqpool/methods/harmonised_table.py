"""Harmonised features of a table: in their own units, with an option that keeps their sign."""

import numpy as np
import pandas as pd

from eqpool.data.tables.encoding import FeatureEncoding
from eqpool.data.tables.participants import ParticipantsTable, who
from eqpool.methods.base import Say
from eqpool.storage.files import write_json, write_table
from eqpool.storage.run_folder import RunFolder


def harmonised_features(
    frame: pd.DataFrame, encoding: FeatureEncoding, change: np.ndarray, keep_sign: bool
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Returns every feature column in its own units, and how many values of which columns were clipped.

    Numbers get their change. Constant columns, categories and missing values stay as they are.

    Args:
      frame: N rows of features, numbers as float64, NaN where missing.
      encoding: of the features.
      change: (N, F) in the encoded features' units, z-scores.
      keep_sign: whether values below 0 become 0 in columns whose training rows have none.
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
    table: ParticipantsTable,
    frame: pd.DataFrame,
    encoding: FeatureEncoding,
    change: np.ndarray,
    keep_sign: bool,
    say: Say,
) -> None:
    """Writes harmonised.tsv, and beside it harmonised.json: whether signs were kept, and how many values that changed.

    Arguments as for `harmonised_features`; `table` names the rows.
    """
    values, clipped = harmonised_features(frame, encoding, change, keep_sign)
    write_table(output.harmonised_file, pd.DataFrame(who(table)).join(values), missing="n/a")
    write_json(output.harmonised_facts_file, {"keep_sign": keep_sign, "clipped": clipped})
    if clipped:
        named = ", ".join(f"{name} {count}" for name, count in clipped.items())
        say(f"{sum(clipped.values())} harmonised values below 0 are set to 0 (output.keep_sign): {named}")
