"""The door of `python -m eqpool.transform`; `eqpool.commands.transform` is the command."""

import sys
from typing import Any

from eqpool.commands import transform as _command
from eqpool.commands.transform import main

__all__ = ["transform", "main"]  # noqa: F822 - the first is imported when it is asked for


def __getattr__(name: str) -> Any:
    """Imports the function behind the command when it is asked for: the command checks its paths first."""
    return getattr(_command, name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
