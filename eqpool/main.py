"""The command: `python -m eqpool.main --config=configs/adni.py --workdir=runs/adni [--config.key=value ...]`.

Trains and evaluates one run and writes its work directory. The same command on the same work directory resumes.
With --distributed the processes of several hosts train together (docs/cloud_tpu.md).
With --dry_run it reads the data, says what the run would cost, and writes nothing but the cache; with --list it names
the configs there are.
Exit code 0 on success, 2 with one line on stderr for bad config, bad input or a full disk, 1 if training diverges.
"""

import ast
import difflib
import errno
import pathlib
import shlex
import sys

from absl import flags, logging
from ml_collections import config_flags

from eqpool.config import from_config_dict
from eqpool.errors import InputError

# Full, read-only, over the quota, not permitted, too large: the user's to mend, and no bug.
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EFBIG)

_CONFIG = config_flags.DEFINE_config_file("config", None, "Path of a config file, such as configs/adni.py[:paper].")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Train together with the processes of other hosts.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Show data, parameters, memory and expected time, and train nothing.")
_LIST = flags.DEFINE_bool("list", False, "Name the configs in configs/, each in a line.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<config name>.")


def main(arguments: list[str]) -> int:
    """Parses `arguments` (without the program's name), runs, and returns the exit code."""
    logging.set_verbosity(logging.WARNING)
    try:
        _parse(arguments)
        if _LIST.value:
            print(_list_configs(pathlib.Path("configs")))
            return 0
        config = from_config_dict(_CONFIG.value)
        workdir = pathlib.Path(_WORKDIR.value or f"runs/{config.name}")
        # Imported here: --help and config errors should not wait for the training stack.
        from eqpool.files import leave_to_another
        from eqpool.parallel import join_processes
        from eqpool.run import dry_run, run
        from eqpool.train.loop import Preempted, TrainingDiverged

        first = join_processes() if _DISTRIBUTED.value else True
        if not first:
            leave_to_another(workdir)
    except InputError as error:
        return _fail(str(error), 2)
    try:
        if _DRY_RUN.value:
            dry_run(config, workdir)
        else:
            run(config, workdir, quiet=not first, command=shlex.join(["python", "-m", "eqpool.main", *arguments]))
    except InputError as error:
        return _fail(str(error), 2)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        return _fail(f"{error.filename or workdir}: {error.strerror}; nothing that was finished is lost", 2)
    except TrainingDiverged as error:
        return _fail(str(error), 1)
    except Preempted as error:
        return _fail(f"{error}; the same command goes on from there", 143)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from the last checkpoint", 130)
    return 0


def _check_config_exists(arguments: list[str]) -> None:
    """The flag's own message for a missing file runs over many lines."""
    for argument in arguments:
        path = pathlib.Path(argument.removeprefix("--config=").split(":")[0])
        if argument.startswith("--config=") and not path.is_file():
            nearest = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*.py")], n=1)
            hint = f"; did you mean {path.parent / nearest[0]}?" if nearest else ""
            raise InputError(f"--config={path}: no such file{hint}")


def _parse(arguments: list[str]) -> None:
    _check_config_exists(arguments)
    try:
        rest = flags.FLAGS(["eqpool.main", *arguments])[1:]
        config = _CONFIG.value
        if config is not None:
            config.to_dict()  # a config file that failed to load says so only when it is used
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(" ".join(str(error).strip("'\"").split())) from None
    if rest:
        raise InputError(f"{rest[0]}: unexpected argument; flags start with --, keys with --config.")
    if config is None and not _LIST.value:
        raise InputError("--config: expected a config file, for example --config=configs/adni.py")


def _list_configs(folder: pathlib.Path) -> str:
    """Every config with the first line of its head.

    Raises:
      InputError: there is no such folder.
    """
    paths = sorted(folder.glob("*.py"))
    if not paths:
        raise InputError(f"--list: no configs in {folder.absolute()}, expected to stand in eqpool's own folder")
    heads = [(ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0] for path in paths]
    return "\n".join(f"{path!s:<26} {head}" for path, head in zip(paths, heads, strict=True))


def _fail(message: str, code: int) -> int:
    print(f"eqpool: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
