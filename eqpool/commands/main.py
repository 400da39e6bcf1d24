"""Trains and evaluates one run, and writes its work directory.

Example: eqpool run --config=configs/adni.py --workdir=runs/adni --config.seed=1

The same command on the same work directory resumes. With --distributed the processes of several hosts train together
(docs/cloud_tpu.md). Set any key of a config by --config.KEY=VALUE, such as --config.stage_one.epochs=20, and the method
by --method=combat, which is short for --config.method=combat. With --config=..., --help lists every key with its value
and what it means.
Exit code 0 on success, 2 with one line on stderr for bad config, bad input or a full disk, 1 if training diverges.
"""

import ast
import difflib
import pathlib
import re
import shlex
import sys
import textwrap
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from eqpool.commands.given_paths import check_config_paths, check_workdir
from eqpool.commands.memory import keep_freed_memory
from eqpool.commands.shell import GOES_ON, attempt, show
from eqpool.config import default_config
from eqpool.config.check import from_config_dict
from eqpool.config.descriptions import describe_keys
from eqpool.config.recipes import config_folder, find_config
from eqpool.errors import InputError, check_is_path, complain, to_path

_CONFIG = config_flags.DEFINE_config_file("config", None, "Path of a config file, such as configs/adni.py[:paper].")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Train together with the processes of other hosts.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Show data, parameters, memory and expected time, and train nothing.")
_LIST = flags.DEFINE_bool("list", False, "Name the configs that came with eqpool, each in a line.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<config name>.")
_HELP = flags.DEFINE_bool("help", False, "Show this; beside --config=... every key with its value and what it means.")


def main(arguments: list[str]) -> int:
    """Parses `arguments` (without the program's name), runs, and returns the exit code."""
    logging.set_verbosity(logging.WARNING)
    try:
        _parse(arguments)
        if _HELP.value:
            show(_help(_CONFIG.value))
            return 0
        if _LIST.value:
            show(_list_configs(config_folder()))
            return 0
        config = from_config_dict(_CONFIG.value)
        workdir = to_path(_WORKDIR.value or f"runs/{config.name}")
        check_is_path(f"--workdir={_WORKDIR.value}")
        check_workdir(workdir, f"--workdir={workdir}")
        check_config_paths(config)
        keep_freed_memory()
        # Imported here because --help, config errors and missing paths should not wait for the training stack.
        from eqpool.commands.run import dry_run, run
        from eqpool.engine.data_parallel import join_processes
        from eqpool.storage.files import leave_to_another

        first = join_processes() if _DISTRIBUTED.value else True
        if not first:
            leave_to_another(workdir)
    except InputError as error:
        return complain(error)

    def work() -> None:
        if _DRY_RUN.value:
            dry_run(config, workdir)
        else:
            run(config, workdir, quiet=not first, command=shlex.join(["python", "-m", "eqpool.main", *arguments]))

    return attempt(work, workdir, GOES_ON)


def _parse(arguments: Sequence[str]) -> None:
    """Parses the flags.

    Raises:
      InputError: one line, with the nearest existing file, key or flag.
    """
    arguments = ["--help" if argument == "-h" else argument for argument in _joined(arguments)]
    arguments = [_with_shipped_config(argument) for argument in arguments]
    _check_keys(arguments)
    sys.argv[1:] = arguments  # where the flag of a config looks for its keys
    try:
        rest = flags.FLAGS(["eqpool.main", *arguments])[1:]
        config = _CONFIG.value
        if config is not None:
            config.to_dict()  # a config file that failed to load reports it only when it is used
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(" ".join(str(error).strip("'\"").split())) from None
    if rest:
        raise InputError(f"{rest[0]}: unexpected argument; flags start with --, keys with --config.")
    if config is None and not (_LIST.value or _HELP.value):
        raise InputError("--config: expected a config file, for example --config=configs/adni.py")


def _joined(arguments: Sequence[str]) -> list[str]:
    """Joins `--config FILE` into `--config=FILE`, and writes `--method` as `--config.method`."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in ("--config", "--method") and not argument.startswith("--"):
            joined[-1] = f"{joined[-1]}={argument}"
        else:
            joined.append(argument)
    return [re.sub("^--method(?==|$)", "--config.method", argument) for argument in joined]


def _with_shipped_config(argument: str) -> str:
    """Replaces configs/NAME.py[:variant] in --config by the path of the shipped file. Other arguments stay as they are.

    A missing file raises an `InputError` here, because the flag's own message runs over many lines.
    """
    if not argument.startswith("--config="):
        return argument
    name, colon, variant = argument.removeprefix("--config=").partition(":")
    path = find_config(pathlib.Path(name))
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else config_folder() or path.parent
        nearest = difflib.get_close_matches(path.name, [other.name for other in folder.glob("*.py")], n=1)
        hint = f"; did you mean {path.parent / nearest[0]}?" if nearest else "; --list names those there are"
        raise InputError(f"--config={name}: no such file{hint}")
    return f"--config={path}{colon}{variant}"


def _check_keys(arguments: Sequence[str]) -> None:
    """Raises `InputError` for an unknown --config.KEY, and suggests keys with the same last part or a similar name."""
    keys = list(_flat(default_config()))
    for argument in arguments:
        key = argument.split("=")[0].removeprefix("--config.")
        if not argument.startswith("--config.") or key in keys:
            continue
        same_end = [known for known in keys if known.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
        nearest = difflib.get_close_matches(key, same_end or keys, n=1, cutoff=0.9 if same_end else 0.6) or same_end
        hint = f"; did you mean {' or '.join(f'--config.{name}' for name in nearest)}?" if nearest else ""
        raise InputError(f"--config.{key}: no such key{hint}")


def _flat(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Flattens a config to dotted keys with their values."""
    found: dict[str, object] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, ConfigDict) else {name: value}
    return found


def _help(config: ConfigDict | None) -> str:
    named = (_CONFIG, _WORKDIR, _DISTRIBUTED, _DRY_RUN, _LIST, _HELP)
    lines = [(__doc__ or "").strip(), "", *(f"  --{flag.name:<11} {flags.FLAGS[flag.name].help}" for flag in named)]
    if config is not None:
        meanings = describe_keys()
        for key, value in _flat(config).items():
            lines += ["", f"  --config.{key}={value!r}", *_wrapped(meanings.get(key, ""))]
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, width=100, initial_indent="      ", subsequent_indent="      ")


def _list_configs(folder: pathlib.Path | None) -> str:
    """Lists every config with the first line of its docstring.

    Raises:
      InputError: the folder does not exist.
    """
    if folder is None:
        raise InputError("--list: no configs came with this eqpool, expected them beside its package")
    paths = sorted(folder.glob("*.py"))
    heads = [(ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0] for path in paths]
    return "\n".join(f"{f'configs/{path.name}':<26} {head}" for path, head in zip(paths, heads, strict=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
