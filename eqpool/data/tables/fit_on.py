"""Selects the rows from which site effects are learnt, such as controls."""

import numpy as np

from eqpool.data.tables.participants import ParticipantsTable
from eqpool.errors import InputError


def rows_labelled(table: ParticipantsTable, fit_on: str, key: str = "config.data.fit_on") -> np.ndarray:
    """Returns the (N,) bool mask of the rows whose column has a label, from a text such as "dx:CN".

    Raises:
      InputError: the text has another form, there is no such column, or no row has the label.
    """
    column, separator, label = fit_on.rpartition(":")
    if not separator or not column or not label:
        raise InputError(f'{key} = "{fit_on}": expected column:label, such as dx:CN')
    table.require(column, key)
    labels = table.names_in(column)
    if label not in labels:
        found = ", ".join(sorted({str(name) for name in labels} - {""}))
        raise InputError(f'{key} = "{fit_on}": no row has {label} in {column}, expected one of {found}')
    return labels == label
