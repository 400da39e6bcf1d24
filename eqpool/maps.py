"""The door of `python -m eqpool.maps`. The command is in `eqpool.commands.maps`."""

import importlib
import sys
from typing import Any

from eqpool.commands.maps import main

__all__ = ["make_maps", "main"]  # noqa: F822 - the first is imported when it is asked for


def __getattr__(name: str) -> Any:
    """Imports the function behind the command on first access, because the command checks its paths first."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("eqpool.commands.make_maps"), name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
