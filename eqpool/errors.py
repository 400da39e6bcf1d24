"""The one exception for bad input: its text is the single line a user reads before exit code 2."""


class InputError(ValueError):
    """Bad input from the user: configuration, table, volume or work directory.

    The message is one line that names the file, row, column or key, what was found and what was expected.
    `eqpool.main` prints it on stderr without a traceback and exits with code 2.
    """
