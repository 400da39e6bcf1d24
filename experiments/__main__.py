"""Runs an experiment with `python -m experiments NAME`. `python -m experiments` lists the names.

Example: python -m experiments table2_german --raw_dir=UCI

The same command resumes an experiment that was stopped. Finished runs are only read. It writes results/NAME.json with
the provenance of its numbers, and the table in pages/NAME.md. `python -m experiments NAME --help` lists the flags.
"""

import argparse
import difflib
import importlib
import pathlib
import sys
import time
from collections.abc import Sequence

from eqpool.commands.shell import GOES_ON, attempt, make_parser, path_argument, show
from eqpool.errors import complain
from eqpool.storage.files import write_json
from experiments.registry import EXPERIMENTS, HERE, Experiment
from experiments.tables import Module, put_table, results_path


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        show("usage: python -m experiments NAME [flags]\n\n" + "\n".join(_overview()))
        return 0
    name = arguments[0]
    if name not in EXPERIMENTS:
        nearest = difflib.get_close_matches(name, EXPERIMENTS, n=1)
        return complain(
            f"{name}: no such experiment{f'; did you mean {nearest[0]}?' if nearest else ''} "
            "(python -m experiments lists them)"
        )
    experiment = EXPERIMENTS[name]
    module: Module = importlib.import_module(f"experiments.{experiment.module}")  # type: ignore[assignment]
    question = experiment.question if experiment.question.endswith("?") else f"{experiment.question}."
    parser = make_parser(
        f"python -m experiments {name}", f"{question}\n\nExample: {experiment.command}\n\n{module.__doc__}"
    )
    module.add_flags(parser, experiment)
    parser.add_argument("--runs", type=path_argument, default=pathlib.Path("runs"), help="where work directories go")
    parser.add_argument("--output", type=path_argument, default=HERE, help="where results/ and pages/ are written")
    options = parser.parse_args(arguments[1:])
    command = " ".join(["python -m experiments", name, *without_paths(arguments[1:], options)])
    return attempt(lambda: _carry_out(experiment, module, options, command), options.runs, GOES_ON)


def _overview() -> list[str]:
    width = max(map(len, EXPERIMENTS))
    names = [f"  {name:<{width}}  {one.question}" for name, one in EXPERIMENTS.items()]
    return [__doc__.strip(), "", *names]


def _carry_out(experiment: Experiment, module: Module, options: argparse.Namespace, command: str) -> None:
    from experiments.provenance import stamp

    started = time.monotonic()
    measured = module.run(experiment, options)
    seconds = time.monotonic() - started
    content = stamp(experiment.name, measured.runs, seconds) | {"command": command} | measured.content
    path = results_path(options.output, experiment, measured.variant)
    page = options.output / "pages" / f"{experiment.name}.md"
    write_json(path, content)
    put_table(page, experiment, path.stem, module.markdown(experiment, content))
    print(f"{path} and {page}: written after {seconds:.0f} s; what was finished earlier was only read")


def without_paths(arguments: Sequence[str], options: argparse.Namespace) -> list[str]:
    """Replaces every path in the arguments by "...", so that no table names a folder of the machine.

    --runs and --output are left out, because they change no number.
    """
    paths = {f"--{name}" for name, value in vars(options).items() if isinstance(value, pathlib.Path)}
    kept, rest = [], list(arguments)
    while rest:
        name, separator, value = rest.pop(0).partition("=")
        if name in paths:
            if not separator and rest:
                rest.pop(0)  # the path is a separate argument
            if name not in ("--runs", "--output"):
                kept.append(f"{name}=...")
        else:
            kept.append(name + separator + value)
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
