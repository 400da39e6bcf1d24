"""Lists of column names in one string, separated by commas, with double quotes around a name that contains a comma."""

from eqpool.errors import InputError


def split_entries(text: str) -> tuple[str, ...]:
    """Splits at commas outside double quotes: `'age, "left, mm"'` to `('age', '"left, mm"')`, with quotes kept.

    As in a CSV file, a quote counts only at the start of an entry, and two quotes inside an entry mean one.

    Raises:
      InputError: a quote is not closed.
    """
    entries, rest = [], text.strip()
    while rest:
        end = _end_of_quotes(rest, text) if rest.startswith('"') else 0
        comma = rest.find(",", end)
        entry, rest = (rest, "") if comma < 0 else (rest[:comma], rest[comma + 1 :].strip())
        entries.append(entry.strip())
    return tuple(entry for entry in entries if entry)


def split_quoted(entry: str) -> tuple[str, str]:
    """Splits an entry into its name and the text after its closing quote.

    `'"a:b":categorical'` becomes `('a:b', ':categorical')`. An entry without quotes is all name.
    """
    if not entry.startswith('"'):
        return entry, ""
    end = _end_of_quotes(entry, entry)
    return entry[1 : end - 1].replace('""', '"').strip(), entry[end:].strip()


def split_names(text: str) -> tuple[str, ...]:
    """Splits a list of names: `'age, "left, mm"'` to `('age', 'left, mm')`.

    Raises:
      InputError: a quote is not closed, or there is text between it and the next comma.
    """
    names = []
    for entry in split_entries(text):
        name, behind = split_quoted(entry)
        if behind:
            raise InputError(f"{text}: {behind!r} behind a quoted name, expected a comma")
        names.append(name)
    return tuple(names)


def _end_of_quotes(entry: str, text: str) -> int:
    """Returns the position after the closing quote of an entry that starts with a quote."""
    place = 1
    while (place := entry.find('"', place)) >= 0:
        if entry[place : place + 2] != '""':
            return place + 1
        place += 2
    raise InputError(f"{text}: a double quote is not closed")
