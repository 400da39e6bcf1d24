"""The program `eqpool`, whose commands are the modules of this folder."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from eqpool import __version__
from eqpool.commands.shell import show
from eqpool.errors import complain


class _Command(NamedTuple):
    """A command: the module whose `main` runs it, and what it does."""

    module: str
    summary: str


COMMANDS = {
    "harmonise": _Command("harmonise", "remove the scanners' effects from the columns of a table"),
    "run": _Command("main", "train, evaluate and harmonise by a config: volumes, tables or images"),
    "transform": _Command("transform", "apply a finished run to new participants"),
    "maps": _Command("maps", "write statistical maps of a finished run on volumes"),
    "preflight": _Command("preflight", "check whether a design is identifiable, from its table alone"),
    "report": _Command("report", "write the report of a finished run again, or beside others"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that `arguments`, by default those of the shell, name first, and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("--help", "-h", "help"):
        show(_overview())
        return 0
    if name == "--version":
        show(f"eqpool {__version__}")
        return 0
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"expected {', '.join(COMMANDS)}"
        return complain(f"{name}: no such command; {hint} (see eqpool --help)")
    return importlib.import_module(f"eqpool.commands.{COMMANDS[name].module}").main(rest)


def _overview() -> str:
    lines = [f"  {name:<11} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "eqpool pools neuroimaging data of several scanners.",
            "",
            "usage: eqpool COMMAND ...        eqpool COMMAND --help shows the flags of a command",
            "       eqpool --version          python -m eqpool is the same program",
            "",
            *lines,
        ]
    )
