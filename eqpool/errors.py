"""The one exception for bad input: its text is the single line a user reads before exit code 2."""

LONGEST_LINE = 1500


class InputError(ValueError):
    """Bad input from the user: configuration, table, volume or work directory.

    The message is one line that names the file, row, column or key, what was found and what was expected.
    `eqpool.main` prints it on stderr without a traceback and exits with code 2. What was found may be anything: line
    breaks in it become spaces, and the middle of what is very long is left out.
    """

    def __init__(self, message: object = ""):
        line = " ".join(str(message).splitlines())
        if len(line) > LONGEST_LINE:
            line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
        super().__init__(line.encode("utf-8", "backslashreplace").decode())  # a lone surrogate cannot be printed
